"""How a picture file becomes the pixels that a model is given, as one text in every index.

It is no part of the fingerprint: vectors of two preparations may be compared, so a search never asks for it. A build
embeds all pictures again where the index names another one.
"""

from search.engine.pictures.decode import GROUND_OF_WHITE

# Pixels of the shorter side that a JPEG decoded at a smaller scale still has. The cosine with the full decode's vector
# is lowest just above it. At 360 it fell to 0.988 (1100 x 733 with strong grain); at 448 to 0.996, with an average of
# 0.998 in the worst size, for 50 instead of 43 ms of CPU at 12 megapixels. 512 brings the lowest no higher, and 24
# megapixels cost 75 instead of 67 ms.
MIN_DECODED_SIDE = 448

# What Transform.apply and open_image do otherwise from one release to the next changes this text.
PREPARATION = f"resized to the crop at once, JPEGs decoded to {MIN_DECODED_SIDE}, white on {GROUND_OF_WHITE}"
