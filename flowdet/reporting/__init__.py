"""What a training leaves: result files, run folders, figures, the HTML report."""
