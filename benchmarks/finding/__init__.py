"""What `make quality` is made of: pictures drawn and edited, and one figure of finding a file."""
