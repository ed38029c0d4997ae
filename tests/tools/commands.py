"""What the tests of the commands share."""

SMALL = [
    *("MODEL.FLOW_DET.HIDDEN_DIM", "32", "MODEL.SMALL_RESNET.CHANNELS", "[8,8,16]"),
    *("DATALOADER.NUM_WORKERS", "0", "SOLVER.WARMUP_ITERS", "0"),
]
FOUR_IMAGES = ["SOLVER.IMS_PER_BATCH", "4"]
