"""Drawing: images with boxes, sheets of images, animations of the boxes of all queries."""
