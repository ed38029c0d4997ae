"""Every configuration key that flowdet adds to detectron2's, with its default."""

from __future__ import annotations

from detectron2.config import CfgNode

from flowdet.flow import InferencePlan, InferenceSettings, StateSettings


def add_flowdet_config(cfg: CfgNode) -> None:
    """Adds flowdet's keys to a detectron2 config, in place.

    The defaults are the recommended recipe: that of `configs/voc_flow_r50.yaml` for detection. The
    digits configs override what suits small images; `configs/paper/` sets the paper's values.
    `flowdet.add_flowdet_config` also registers the models and datasets.
    """
    _add_model_keys(cfg)
    _add_block_keys(cfg.MODEL.FLOW_DET)
    _add_training_keys(cfg.MODEL.FLOW_DET)
    _add_loss_keys(cfg.MODEL.FLOW_DET)
    _add_inference_keys(cfg.MODEL.FLOW_DET)
    _add_classification_keys(cfg)
    _add_classification_data_keys(cfg)
    _add_data_keys(cfg)
    _add_solver_keys(cfg)


def _add_model_keys(cfg: CfgNode) -> None:
    # Modules, by name or as .py files, that are imported first: they register your own parts.
    cfg.IMPORTS = []
    # Fine-tune MODEL.WEIGHTS of other classes: tensors whose shape depends on the classes are
    # initialized anew.
    cfg.MODEL.REINIT_CLASSES = False
    # Class names. A run writes those of its datasets here, so that its config.yaml is enough to use
    # the model where the datasets are not.
    cfg.MODEL.CLASS_NAMES = []

    cfg.MODEL.FLOW_DET = node = CfgNode()
    # Number of classes C. 0 takes it from the class names of the training dataset.
    node.NUM_CLASSES = 0
    # Feature maps of the backbone that the blocks attend to.
    node.IN_FEATURES = ["res4"]
    # Normalization after the 1x1 projection of the features ("" for none), and the number of
    # residual convolution blocks that follow it.
    node.NECK_NORM = "GN"
    node.NECK_BLOCKS = 1
    # Cycles per image of the fastest sine of the positional encoding. 0 derives it from the token
    # grid: half the tokens along the shorter side of INPUT.FIXED_SIZE, minus one. More than half
    # of them would alias. The checkpoint keeps the value that was trained with.
    node.POSITION_MAX_FREQUENCY = 0.0

    # Keep the features of a frozen backbone in this much memory: the backbone then sees each image
    # once. For augmentations with few outcomes (none, flips). 0 is off.
    node.FEATURE_CACHE_GIB = 0.0
    # With it: a folder where they are also written, for later runs with the same images and
    # backbone.
    node.FEATURE_CACHE_DIR = ""

    # Width of the small backbone "build_small_resnet_backbone": channels of its stem, res2
    # and res3 (strides 4, 4, 8).
    cfg.MODEL.SMALL_RESNET = CfgNode({"CHANNELS": [32, 32, 128], "BLOCKS": [1, 2]})


def _add_block_keys(node: CfgNode) -> None:
    # Type of the flow blocks, from DETECTION_BLOCK_REGISTRY: "transformer" (D.1) or your own.
    node.BLOCK = "transformer"
    # Embedding dimension d, queries M, flow blocks T, and the size of a block.
    node.HIDDEN_DIM = 128
    node.NUM_QUERIES = 50
    node.NUM_BLOCKS = 4
    node.NUM_HEADS = 4
    node.FEEDFORWARD_DIM = 512
    node.DROPOUT = 0.0
    # Box head: "linear" (the paper) or "mlp".
    node.BOX_HEAD = "mlp"
    # What a block predicts: "velocity" (the paper) or "target" (a correction of its last estimate
    # of z_1).
    node.PREDICTION = "target"
    # Queries start from learned estimates whose boxes lie on a grid, and have a learned positional
    # encoding.
    node.ANCHORED_QUERIES = True
    # Blocks also see the previous estimate of z_1.
    node.SELF_CONDITIONING = True
    # Cross-attention is centered at the box that the estimate decodes to.
    node.BOX_ANCHORED_ATTENTION = True
    # Blocks also sample the feature maps at a grid of so many points per side in that box; 0 is off.
    node.BOX_SAMPLES = 5


def _add_training_keys(node: CfgNode) -> None:
    # The states z_t that blocks are trained on: "interpolated" (the paper: between noise and ground
    # truth) or "rollout" (on-policy: block k on the state that the blocks before it lead to).
    node.TRAINING_STATES = "rollout"
    # "rollout" draws its number of Euler steps from these, e.g. [1, 2, 4, 8]; [] is T.
    node.ROLLOUT_STEPS = []
    # Gaussian noise on the intermediate estimates of a rollout, as a share of their standard
    # deviation, times 1 - t. Simulates the larger errors made on unseen images.
    node.STATE_NOISE = 0.3
    # Also train every block at t = 0 in every iteration, and the weight of its losses there.
    # INFERENCE_MODE "ensemble", and "single_step" with a block other than 0, need it.
    node.LEARN_AT_START = False
    node.START_WEIGHT = 0.25
    # With LEARN_AT_START: whether the losses at t > 0 pass a gradient to the features too.
    node.STATES_TRAIN_FEATURES = True
    # Which query gets an object's target in interpolated states: "ordered", "random" or
    # "optimal_transport". Rollouts use the matching of the detection loss.
    node.COUPLING = "random"
    # Matching of queries and objects in the detection loss: "per_block" (each block, or layer of the
    # baseline, matches its own prediction) or "shared" (all use the matching of the first).
    node.MATCHING = "shared"
    # Which blocks are trained in an iteration: "joint" (all) or "alternate" (Algorithm 1: one per
    # epoch, in turn), and the iterations of an epoch (0: set from the dataset).
    node.SCHEDULE = "joint"
    node.ITERS_PER_EPOCH = 0

    # Standard deviation of the noise z_0.
    node.NOISE_SCALE = 0.3
    # Whether target embeddings are layer-normalized, and whether the losses train them.
    node.NORMALIZE_TARGET = True
    node.LEARN_TARGET = False


def _add_loss_keys(node: CfgNode) -> None:
    # Weights of the losses. CLASS_WEIGHT, BBOX_WEIGHT and GIOU_WEIGHT are the matching costs too.
    node.FLOW_WEIGHT = 0.02
    node.CLASS_WEIGHT = 4.0
    node.BBOX_WEIGHT = 5.0
    node.GIOU_WEIGHT = 2.0
    # Weight of the background in the classification loss, summed over the queries of an image: each
    # background query has this divided by NUM_QUERIES, so that it holds for any number of them.
    node.BACKGROUND_WEIGHT_PER_IMAGE = 2.0
    # IoU-aware classification targets: the class of a matched query has the IoU of its box as target
    # probability, so that scores rank boxes.
    node.IOU_AWARE_TARGETS = True
    # Weight of the losses of the first block (of BackpropDetector: layer); it doubles from block to
    # block, up to 1.
    node.FIRST_BLOCK_WEIGHT = 0.25

    # BackpropDetector alone: a loss for every layer, not only the last; no gradient from a layer to
    # the ones before it; recompute the blocks' activations in the backward pass (gradient
    # checkpointing).
    node.AUXILIARY_LOSSES = True
    node.DETACH_LAYERS = False
    node.CHECKPOINT_BLOCKS = False


def _add_inference_keys(node: CfgNode) -> None:
    # "single_step", "ensemble", "multi_step" or "multi_step_ensemble"; Euler steps of the latter two
    # (0: one per block); the block of "single_step", from 0, negative from the end; seed of z_0.
    node.INFERENCE_MODE = "multi_step"
    node.NUM_STEPS = 8
    node.SINGLE_STEP_BLOCK = 0
    node.NOISE_SEED = 0
    # Stop the steps of an image once no box that could be reported moves by more than this share of
    # the image's side; 0 is off.
    node.EARLY_EXIT = 0.0
    # Scores are multiplied by box stability: the estimate before the last step is perturbed this
    # many times, the step is re-run, and the IoU with the original box is averaged. 0 is off; each
    # sample costs one call of a block. The noise is a share of the estimates' standard deviation.
    node.STABILITY_SAMPLES = 4
    node.STABILITY_NOISE = 0.2
    # Detections at or below this score are dropped; IoU threshold of class-wise non-maximum
    # suppression.
    node.SCORE_THRESHOLD = 0.01
    node.NMS_THRESHOLD = 0.5


def _add_classification_keys(cfg: CfgNode) -> None:
    cfg.MODEL.FLOW_CLS = node = CfgNode()
    # Number of classes C. 0 takes it from the class names of the training dataset.
    node.NUM_CLASSES = 0
    # "parallel": all blocks read the last of IN_FEATURES; "sequential": block k reads the k-th, so
    # there must be NUM_BLOCKS of them. [] stands for all stages of the backbone.
    node.TOPOLOGY = "parallel"
    node.IN_FEATURES = []
    # What a block reads of a feature map: "pooled" (the mean over positions, [B, c]) or "tokens"
    # (all positions, [B, N, c]).
    node.FEATURES = "pooled"

    # Latent dimension d and flow blocks T.
    node.HIDDEN_DIM = 128
    node.NUM_BLOCKS = 4
    # Type of the blocks, from CLASSIFICATION_BLOCK_REGISTRY: "mlp" (eq. 7-8), "light_mlp" (one
    # hidden layer), "residual_mlp", "encoder" (a transformer encoder layer, for tokens) or your own.
    node.BLOCK = "mlp"
    # Hidden units and dropout of a block, residual layers of "residual_mlp", heads of "encoder".
    node.BLOCK_DIM = 512
    node.DROPOUT = 0.0
    node.BLOCK_LAYERS = 2
    node.NUM_HEADS = 4

    # Class logits from the class embedding (tied) or from a separate projection (W_cls).
    node.TIE_CLASSES = False
    # The following keys mean the same as in FLOW_DET.
    node.PREDICTION = "target"
    node.SELF_CONDITIONING = True
    node.TRAINING_STATES = "rollout"
    node.ROLLOUT_STEPS = []
    node.STATE_NOISE = 0.0
    node.LEARN_AT_START = True
    node.STATES_TRAIN_FEATURES = False
    node.SCHEDULE = "joint"
    node.ITERS_PER_EPOCH = 0
    node.NOISE_SCALE = 0.3
    node.NORMALIZE_TARGET = True
    node.LEARN_TARGET = False
    # Weights of the flow loss and of the cross-entropy of the estimate.
    node.FLOW_WEIGHT = 0.02
    node.CLASS_WEIGHT = 1.0

    # Inference, as in FLOW_DET.
    node.INFERENCE_MODE = "multi_step"
    node.NUM_STEPS = 0
    node.SINGLE_STEP_BLOCK = 0
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
    # A detection dataset in VOC or COCO format, by its folder (docs/custom_datasets.md). It replaces
    # DATASETS.TRAIN and TEST. `tools/train_net.py --data` sets it.
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


def state_settings(node: CfgNode) -> StateSettings:
    """The training states that `MODEL.FLOW_DET` or `MODEL.FLOW_CLS` asks for."""
    return StateSettings(
        kind=node.TRAINING_STATES,
        learn_at_start=node.LEARN_AT_START,
        states_train_features=node.STATES_TRAIN_FEATURES,
        rollout_steps=tuple(node.ROLLOUT_STEPS),
        state_noise=node.STATE_NOISE,
    )


def inference_settings(node: CfgNode) -> InferenceSettings:
    """The inference settings that `MODEL.FLOW_DET` or `MODEL.FLOW_CLS` asks for: `NUM_STEPS` 0 is
    one per block, a negative `SINGLE_STEP_BLOCK` counts from the end."""
    count, block = node.NUM_BLOCKS, node.SINGLE_STEP_BLOCK
    plan = InferencePlan(
        node.INFERENCE_MODE, node.NUM_STEPS or count, block + count if block < 0 else block
    )
    return InferenceSettings(plan, node.NOISE_SEED, node.get("EARLY_EXIT", 0.0))
