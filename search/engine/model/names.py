"""The weights that have a name; apart, because a check of the settings needs nothing else of the model."""

# The files of torchvision's MobileNet_V3_Large_Weights, by entry (a test compares the two).
ENTRY_FILES = {
    "IMAGENET1K_V1": "mobilenet_v3_large-8738ca79.pth",
    "IMAGENET1K_V2": "mobilenet_v3_large-5c1a4163.pth",
}
BUILTIN = "builtin"  # the weights that come with the code
NAMES = [*ENTRY_FILES, BUILTIN]
