"""Every configuration key that flowdet adds to detectron2's, with its default."""

from __future__ import annotations

from detectron2.config import CfgNode

from flowdet.flow import StateSettings


def add_flowdet_config(cfg: CfgNode) -> None:
    """Adds flowdet's keys to a detectron2 config, in place.

    The defaults are the recipe that was measured to work; the `*_paper` configs and
    `voc_flow_r50.yaml` set the paper's values.
    """
    _add_model_keys(cfg)
    _add_transport_keys(cfg.MODEL.FLOW_DET)
    _add_loss_and_inference_keys(cfg.MODEL.FLOW_DET)
    _add_classification_keys(cfg)
    _add_classification_data_keys(cfg)
    _add_data_keys(cfg)
    _add_solver_keys(cfg)


def _add_model_keys(cfg: CfgNode) -> None:
    # Modules, by name or as .py files, that are imported first: they register parts of your own.
    cfg.IMPORTS = []
    # Fine-tune MODEL.WEIGHTS of other classes: tensors of another class count start anew.
    cfg.MODEL.REINIT_CLASSES = False
    # What the classes are called. A run writes those of its datasets here, so that its config.yaml
    # is enough to use the model where the datasets are not.
    cfg.MODEL.CLASS_NAMES = []

    cfg.MODEL.FLOW_DET = node = CfgNode()
    # Number of classes C. 0 takes it from the class names of the training dataset.
    node.NUM_CLASSES = 0
    # Feature maps of the backbone that the blocks attend to.
    node.IN_FEATURES = ["res5"]
    # Normalisation after the projection of the features ("" for none), and how many residual
    # convolution blocks follow it (to adapt a frozen backbone).
    node.NECK_NORM = "GN"
    node.NECK_BLOCKS = 0

    # What a flow block is, from DETECTION_BLOCK_REGISTRY: "transformer" (D.1) or your own.
    node.BLOCK = "transformer"
    # Embedding dimension d, queries M, flow blocks T, and the shape of a block.
    node.HIDDEN_DIM = 128
    node.NUM_QUERIES = 20
    node.NUM_BLOCKS = 4
    node.NUM_HEADS = 4
    node.FEEDFORWARD_DIM = 512
    node.DROPOUT = 0.0
    # Cycles per image of the fastest position code; at most half the tokens along a side.
    node.POSITION_MAX_FREQUENCY = 5.0
    # How embeddings are decoded to boxes: "linear" (the paper) or "mlp".
    node.BOX_HEAD = "mlp"

    # Keep the features of a frozen backbone in this much memory: each image then passes it
    # once. For augmentations with few outcomes (none, flips). 0 is off.
    node.FEATURE_CACHE_GIB = 0.0
    # With it: a folder where they are written too, so that other runs with the same images and
    # backbone need not compute them again.
    node.FEATURE_CACHE_DIR = ""

    # Width of the small backbone "build_small_resnet_backbone": channels of its stem, res2
    # and res3 (strides 4, 4, 8).
    cfg.MODEL.SMALL_RESNET = CfgNode({"CHANNELS": [32, 32, 128], "BLOCKS": [1, 2]})


def _add_transport_keys(node: CfgNode) -> None:
    # What a block predicts: "velocity" (the paper) or "target" (a correction of its estimate).
    node.PREDICTION = "target"
    # Learned first estimates whose boxes lie on a grid, and a learned code per query.
    node.ANCHORED_QUERIES = True
    # Blocks also see the previous estimate of the target.
    node.SELF_CONDITIONING = True
    # Cross-attention looks at the box that the estimate decodes to.
    node.BOX_ANCHORED_ATTENTION = True
    # Blocks also read the feature maps at so many points along each side of that box; 0 is off.
    node.BOX_SAMPLES = 5

    # States on which blocks learn: "interpolated" (the paper), or those that the solver
    # visits: "chain" (block k after block k - 1).
    node.TRAINING_STATES = "chain"
    # "chain" draws its number of steps from these, e.g. [1, 2, 4, 8]; [] is T.
    node.CHAIN_STEPS = []
    # Noise on the estimates from which "chain" walks on, as a share of their standard deviation,
    # times 1 - t: blocks then learn on worse states than those of images that are known by heart.
    node.STATE_NOISE = 0.0
    # Every block learns at t = 0 in every iteration, and beside it on the states above; the weight
    # of its losses there.
    node.LEARN_AT_START = False
    node.START_WEIGHT = 0.25
    # Which query an object's target goes to in interpolated states: "ordered", "random" or
    # "optimal_transport". Visited states take the matching of the detection loss.
    node.COUPLING = "random"
    # On what the detection loss matches queries and objects: "own" (each block, or layer of the
    # baseline, on its own prediction) or "carried" (all on that of the first).
    node.ASSIGNMENT = "carried"
    # Which blocks learn in an iteration: "joint" (all) or "alternate" (Algorithm 1: one per
    # pass over the data, SOLVER.MAX_EPOCHS / T passes each), and the iterations in a pass (0: set
    # from the dataset).
    node.SCHEDULE = "joint"
    node.PASS_LENGTH = 0

    # Standard deviation of the noise z_0.
    node.NOISE_SCALE = 0.3
    # Whether target embeddings are layer-normalised, and whether the losses train them.
    node.NORMALIZE_TARGET = True
    node.LEARN_TARGET = False


def _add_loss_and_inference_keys(node: CfgNode) -> None:
    # Weights of the losses and of the matching costs.
    node.FLOW_WEIGHT = 0.02
    node.CLASS_WEIGHT = 1.0
    node.BBOX_WEIGHT = 5.0
    node.GIOU_WEIGHT = 2.0
    # Weight of background queries in the classification loss, and whether a matched query is to
    # be its object's class only in so far as its box overlaps the object's (IoU).
    node.BACKGROUND_WEIGHT = 0.1
    node.QUALITY_TARGETS = False
    # Weight of all losses of the first block (of BackpropDetector: layer); it doubles from block to
    # block, up to 1.
    node.FIRST_BLOCK_WEIGHT = 1.0

    # BackpropDetector alone: a loss for every layer, not only the last; no gradient from a layer
    # to the ones before it; compute the blocks' activations again in the backward pass instead of
    # keeping them.
    node.AUXILIARY_LOSSES = True
    node.DETACH_LAYERS = False
    node.CHECKPOINT_BLOCKS = False

    # Inference: "single_step", "ensemble", "multi_step" or "multi_step_ensemble"; Euler steps
    # of the latter two (0: one per block); the block of "single_step", from 0; seed of z_0.
    node.INFERENCE_MODE = "multi_step"
    node.NUM_STEPS = 0
    node.SINGLE_STEP_BLOCK = 0
    node.NOISE_SEED = 0
    # An image takes no more steps once no box that could be reported moves by more than this share
    # of its side; 0 is off.
    node.EARLY_EXIT = 0.0
    # Scores are multiplied by how well the box stands when the last block (of BackpropDetector:
    # layer) starts from noisy estimates: the mean IoU with the boxes of so many draws (0 is off),
    # each at the price of a block, and the noise as a share of the estimates' spread.
    node.STABILITY_DRAWS = 0
    node.STABILITY_NOISE = 0.2
    # Detections at or below this score are dropped; IoU of class-wise suppression.
    node.SCORE_THRESHOLD = 0.05
    node.NMS_THRESHOLD = 0.5


def _add_classification_keys(cfg: CfgNode) -> None:
    cfg.MODEL.FLOW_CLS = node = CfgNode()
    # Number of classes C. 0 takes it from the class names of the training dataset.
    node.NUM_CLASSES = 0
    # "parallel": all blocks on the last of IN_FEATURES; "sequential": block k on the k-th, so
    # there must be NUM_BLOCKS of them. [] stands for all stages of the backbone.
    node.TOPOLOGY = "parallel"
    node.IN_FEATURES = []
    # What of a feature map a block sees: "pooled" (its mean over positions, [B, c]) or "tokens"
    # (all positions, [B, N, c]).
    node.FEATURES = "pooled"

    # Latent dimension d and flow blocks T.
    node.HIDDEN_DIM = 128
    node.NUM_BLOCKS = 4
    # What a block is, from CLASSIFICATION_BLOCK_REGISTRY: "mlp" (eq. 7-8), "light_mlp" (one hidden
    # layer), "residual_mlp", "encoder" (a transformer encoder layer, for tokens) or your own.
    node.BLOCK = "mlp"
    # Hidden units and dropout of a block, residual layers of "residual_mlp", heads of "encoder".
    node.BLOCK_DIM = 512
    node.DROPOUT = 0.0
    node.BLOCK_LAYERS = 2
    node.NUM_HEADS = 4

    # Class logits from the class embedding (tied) or from a projection of their own (W_cls).
    node.TIE_CLASSES = False
    # As in FLOW_DET: what a block predicts, whether it sees the previous estimate, the states on
    # which it learns, whether at t = 0 too (where alone its loss then passes a gradient to the
    # features), and the schedule of the blocks.
    node.PREDICTION = "target"
    node.SELF_CONDITIONING = True
    node.TRAINING_STATES = "chain"
    node.LEARN_AT_START = True
    node.CHAIN_STEPS = []
    node.STATE_NOISE = 0.0
    node.SCHEDULE = "joint"
    node.PASS_LENGTH = 0
    # The noise z_0, and whether targets are layer-normalised and trained by the losses.
    node.NOISE_SCALE = 0.3
    node.NORMALIZE_TARGET = True
    node.LEARN_TARGET = False
    # Weights of the flow loss and of the cross-entropy of z1_hat.
    node.FLOW_WEIGHT = 0.02
    node.CLASS_WEIGHT = 1.0

    # Inference, as in FLOW_DET (the block of "single_step" counts from 0; -1 is the last one).
    node.INFERENCE_MODE = "multi_step"
    node.NUM_STEPS = 0
    node.SINGLE_STEP_BLOCK = -1
    node.NOISE_SEED = 0
    # Numbers of Euler steps that an evaluation reports; [] is 1, 2, T and 2T.
    node.EVAL_STEPS = []

    # build_cnn_backbone: channels of its stages, each half as large as the one before.
    cfg.MODEL.CNN = CfgNode({"CHANNELS": [96, 384, 1536]})
    # build_vit_backbone: torchvision's VisionTransformer for images of INPUT.FIXED_SIZE. STEM is
    # "patch" (linear patches) or "conv" (convolutions down to the same patches).
    cfg.MODEL.VIT = CfgNode(
        {
            "PATCH_SIZE": 4,
            "HIDDEN_DIM": 128,
            "NUM_LAYERS": 5,
            "NUM_HEADS": 4,
            "MLP_RATIO": 4.0,
            "DROPOUT": 0.0,
            "STEM": "patch",
        }
    )


def _add_classification_data_keys(cfg: CfgNode) -> None:
    # Fetch missing classification datasets with torchvision's own code.
    cfg.DATASETS.DOWNLOAD = False
    # Images are decoded once and kept when they need at most this much memory.
    cfg.DATALOADER.IN_MEMORY_GIB = 2.0
    # Augmentations for classification; flips by INPUT.RANDOM_FLIP. Pixels that are padded before
    # a random crop of the same size; smallest area share of a random resized crop (0: none).
    cfg.INPUT.CROP_PADDING = 0
    cfg.INPUT.RESIZED_CROP_AREA = 0.0
    # "", "cifar10", "imagenet" or "svhn": torchvision's policies.
    cfg.INPUT.AUTO_AUGMENT = ""
    # Probability of erasing a rectangle, and the largest rotation in degrees.
    cfg.INPUT.RANDOM_ERASING = 0.0
    cfg.INPUT.RANDOM_ROTATION = 0.0


def _add_data_keys(cfg: CfgNode) -> None:
    # A detection dataset in VOC or COCO format, by its folder (docs/own_data.md). It takes the
    # place of DATASETS.TRAIN and TEST. `tools/train_net.py --data` sets it.
    cfg.DATASETS.PATH = ""
    # Whether objects marked difficult (VOC) are trained on; the evaluator ignores them.
    cfg.DATASETS.TRAIN_ON_DIFFICULT = False
    # Resize every image to this (height, width), in training and testing. [0, 0] is off:
    # then INPUT.MIN_SIZE_* and MAX_SIZE_* hold.
    cfg.INPUT.FIXED_SIZE = [0, 0]
    # Brightness, contrast and saturation are scaled by 1 +- this in training; 0 is off.
    cfg.INPUT.COLOR_JITTER = 0.0
    # With FIXED_SIZE: the image is scaled by a factor from this range in training, then
    # cropped or padded. [1, 1] is off.
    cfg.INPUT.SCALE_JITTER = [1.0, 1.0]
    # Images per batch and process in evaluation.
    cfg.TEST.BATCH_SIZE = 8
    # Classes over which AP*-subset is averaged, beside the mean over all classes.
    cfg.TEST.CLASS_SUBSET = []
    # Images of each test dataset that every evaluation draws into TensorBoard; 0 is off.
    cfg.TEST.SAMPLE_IMAGES = 6
    # A training ends with its report.html, for which so many test images are looked at to find
    # the best and the worst; 0 leaves those out.
    cfg.TEST.REPORT = True
    cfg.TEST.REPORT_IMAGES = 100


def _add_solver_keys(cfg: CfgNode) -> None:
    # "AdamW" or "SGD".
    cfg.SOLVER.OPTIMIZER = "AdamW"
    # The backbone's learning rate, as a share of BASE_LR.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    # Decay of an exponential moving average of the weights, which is evaluated too (its results
    # end in "_ema"). 0 is off.
    cfg.SOLVER.EMA_DECAY = 0.0
    # Epochs: when above 0 it sets MAX_ITER from the size of the training set. The others then
    # set STEPS, WARMUP_ITERS, CHECKPOINT_PERIOD and TEST.EVAL_PERIOD in the same way (0 or
    # [] leaves those as they are).
    cfg.SOLVER.MAX_EPOCHS = 0
    cfg.SOLVER.STEP_EPOCHS = []
    cfg.SOLVER.WARMUP_EPOCHS = 0
    cfg.SOLVER.CHECKPOINT_EPOCHS = 0
    cfg.TEST.EVAL_EPOCHS = 0


def state_settings(node: CfgNode, walk_trains_features: bool) -> StateSettings:
    """On which states blocks learn, from `MODEL.FLOW_DET` or `MODEL.FLOW_CLS`; the latter argument
    as of `StateSettings`."""
    return StateSettings(
        kind=node.TRAINING_STATES,
        learn_at_start=node.LEARN_AT_START,
        walk_trains_features=walk_trains_features,
        chain_steps=tuple(node.CHAIN_STEPS),
        state_noise=node.STATE_NOISE,
    )
