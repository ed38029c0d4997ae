"""The formats of pictures and animations, by suffix. Commands read them before torch is loaded."""

# formats of the written pictures; the picture of an image in another format is a .png
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
ANIMATION_SUFFIXES = (".gif", ".mp4")
# the noise seeds in an explorer's page, by default
NUM_SEEDS = 3
