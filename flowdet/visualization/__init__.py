"""Drawing: images with boxes, sheets of images, animations of the queries' boxes."""
