"""Config overrides that make the models of command tests small."""

SMALL = [
    *("MODEL.FLOW_DET.HIDDEN_DIM", "32", "MODEL.SMALL_RESNET.CHANNELS", "[8,8,16]"),
    *("DATALOADER.NUM_WORKERS", "0", "SOLVER.WARMUP_ITERS", "0"),
]
FOUR_IMAGES = ["SOLVER.IMS_PER_BATCH", "4"]
NO_REPORT = ["TEST.REPORT", "False"]
# of a classifier with a ViT
SMALL_VIT = [
    *("MODEL.VIT.HIDDEN_DIM", "16", "MODEL.VIT.NUM_LAYERS", "2", "MODEL.VIT.NUM_HEADS", "2"),
    *("MODEL.FLOW_CLS.HIDDEN_DIM", "16", "MODEL.FLOW_CLS.BLOCK_DIM", "16"),
    *("MODEL.FLOW_CLS.NUM_BLOCKS", "2", "DATALOADER.NUM_WORKERS", "0"),
]
