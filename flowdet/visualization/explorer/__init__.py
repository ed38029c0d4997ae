"""The explorer, a self-contained HTML page in which a reader moves boxes from noise to objects."""

from flowdet.visualization.explorer.page import ExplorerContent, explorer_html

__all__ = ["ExplorerContent", "explorer_html"]
