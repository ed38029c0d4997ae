"""Draws images with boxes, sheets of images, and animations of the boxes of all queries."""
