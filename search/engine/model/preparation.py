"""How a picture file becomes the pixels that a model is given, as one text in every index.

It is no part of the fingerprint: vectors of two preparations may be compared, so a search never asks for it. A build
embeds all pictures again where the index names another one.
"""

MIN_DECODED_SIDE = 360  # pixels of the shorter side that a JPEG decoded at a smaller scale still has

# What Transform.apply and open_image do otherwise from one release to the next changes this text.
PREPARATION = f"resized straight to the crop, JPEGs decoded to {MIN_DECODED_SIDE} pixels or more, on white"
