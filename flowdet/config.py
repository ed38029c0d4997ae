"""The config keys that flowdet adds to detectron2's, with their defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode

from flowdet.flow import InferencePlan, InferenceSettings, StateSettings


def add_flowdet_config(cfg: CfgNode) -> None:
    """Adds flowdet's keys to a detectron2 config, in place.

    The defaults are the recommended recipe, which `configs/voc_flow_r50.yaml` uses for detection.
    The configs of the digits override some of them for small images. The configs in
    `configs/paper/` set the paper's values. `flowdet.add_flowdet_config` also registers the models
    and datasets.
    """
    _add_model_keys(cfg)
    cfg.MODEL.FLOW_DET = CfgNode()
    cfg.MODEL.FLOW_CLS = CfgNode()
    # the keys that detection and classification share; each has the same meaning in both
    _add_block_keys(cfg.MODEL.FLOW_DET)
    _add_block_keys(cfg.MODEL.FLOW_CLS)
    _add_block_training_keys(cfg.MODEL.FLOW_DET)
    _add_block_training_keys(cfg.MODEL.FLOW_CLS)
    _add_block_inference_keys(cfg.MODEL.FLOW_DET)
    _add_block_inference_keys(cfg.MODEL.FLOW_CLS)
    _add_detection_model_keys(cfg.MODEL.FLOW_DET)
    _add_detection_training_keys(cfg.MODEL.FLOW_DET)
    _add_detection_inference_keys(cfg.MODEL.FLOW_DET)
    _add_classification_keys(cfg.MODEL.FLOW_CLS)
    cfg.MODEL.LOCAL_LEARNING = CfgNode()
    cfg.MODEL.FORWARD_FORWARD = CfgNode()
    cfg.MODEL.SFF = CfgNode()
    cfg.MODEL.CFF = CfgNode()
    cfg.MODEL.SOFT_HEBB = CfgNode()
    cfg.MODEL.NOPROP = CfgNode()
    _add_local_learning_keys(cfg.MODEL.LOCAL_LEARNING)
    _add_forward_forward_keys(cfg.MODEL.FORWARD_FORWARD)
    _add_stochastic_forward_forward_keys(cfg.MODEL.SFF)
    _add_contrastive_forward_forward_keys(cfg.MODEL.CFF)
    _add_soft_hebb_keys(cfg.MODEL.SOFT_HEBB)
    _add_noprop_keys(cfg.MODEL.NOPROP)
    cfg.MODEL.BOX_TRANSPORT = CfgNode()
    _add_box_transport_keys(cfg.MODEL.BOX_TRANSPORT)
    cfg.MODEL.FCOS = CfgNode()
    _add_fcos_keys(cfg.MODEL.FCOS)
    _add_backbone_keys(cfg)
    _add_detection_data_keys(cfg)
    _add_classification_data_keys(cfg)
    _add_evaluation_keys(cfg)
    _add_solver_keys(cfg)


def _add_model_keys(cfg: CfgNode) -> None:
    # Modules that are imported before the model is built: names, or paths of .py files. They
    # register your own parts, such as a backbone (docs/extending.md).
    cfg.IMPORTS = []
    # For fine-tuning on other classes: if the classes of MODEL.WEIGHTS differ from those of the
    # dataset, do not load the tensors that depend on the classes, so that they start from random
    # values. If False, other classes are an error.
    cfg.MODEL.REINIT_CLASSES = False
    # Class names. A run takes them from its datasets and saves them in its config.yaml, so that its
    # model can be used without the datasets.
    cfg.MODEL.CLASS_NAMES = []
    # The id of every class of a detector in the JSON files of tools/demo.py, in the order of
    # CLASS_NAMES. A run takes the category ids of its COCO dataset, or else 0, 1, 2, ..., and saves
    # them in its config.yaml. They stay the same if the dataset is changed later.
    cfg.MODEL.CATEGORY_IDS = []


def _add_block_keys(node: CfgNode) -> None:
    # Number of classes C. 0 takes it from the class names of the training dataset.
    node.NUM_CLASSES = 0
    # Names of the backbone's feature maps that the blocks get. In FLOW_CLS, [] means all stages of
    # the backbone, and TOPOLOGY decides which block gets which.
    node.IN_FEATURES = ["res4"]

    # Type of the flow blocks. In FLOW_DET a name in DETECTION_BLOCK_REGISTRY: "transformer" (D.1)
    # or your own. In FLOW_CLS a name in CLASSIFICATION_BLOCK_REGISTRY: "mlp" (eq. 7-8), "light_mlp"
    # (one hidden layer), "residual_mlp", "encoder" (a transformer encoder layer, for tokens) or
    # your own.
    node.BLOCK = "transformer"
    # Number of flow blocks T.
    node.NUM_BLOCKS = 4
    # Embedding dimension d.
    node.HIDDEN_DIM = 128
    # Number of attention heads of a block, if it has attention.
    node.NUM_HEADS = 4
    # Dropout probability in a block.
    node.DROPOUT = 0.0

    # What a block predicts: "velocity" (the paper) or "target" (a correction of the previous
    # estimate of z_1).
    node.PREDICTION = "target"
    # Whether the blocks also get the previous estimate of z_1 as input.
    node.SELF_CONDITIONING = True
    # Standard deviation of the noise z_0.
    node.NOISE_SCALE = 0.3
    # Whether target embeddings are layer-normalized.
    node.NORMALIZE_TARGET = True
    # Whether the losses train the target embeddings.
    node.LEARN_TARGET = False


def _add_block_training_keys(node: CfgNode) -> None:
    # States z_t that the blocks are trained on: "interpolated" (the paper: between noise and
    # target) or "rollout" (on-policy: block k is trained on the state that the previous blocks
    # produce).
    node.TRAINING_STATES = "rollout"
    # The number of Euler steps of a rollout is drawn from these, e.g. [1, 2, 4, 8]. [] means T.
    node.ROLLOUT_STEPS = []
    # Gaussian noise on the intermediate estimates of a rollout, as a fraction of their standard
    # deviation, times 1 - t. It simulates the larger errors that are made on unseen images.
    node.STATE_NOISE = 0.3
    # Whether every block is also trained at t = 0 in every iteration. With rollouts, INFERENCE_MODE
    # "ensemble", "multi_step_ensemble", and "single_step" with a block other than 0 need it.
    node.LEARN_AT_START = False
    # With LEARN_AT_START: whether the losses at t > 0 also pass a gradient to the features.
    # Otherwise only the losses at t = 0 do.
    node.STATES_TRAIN_FEATURES = True
    # Blocks that are trained in an iteration: "joint" (all) or "alternate" (Algorithm 1: one per
    # epoch, in turn).
    node.SCHEDULE = "joint"
    # Iterations per epoch, for "alternate". 0 takes them from the size of the training dataset.
    node.ITERS_PER_EPOCH = 0
    # Weights of the flow loss (eq. 14) and of the classification loss. In FLOW_DET, CLASS_WEIGHT is
    # also the weight of the class probability in the matching cost.
    node.FLOW_WEIGHT = 0.02
    node.CLASS_WEIGHT = 4.0


def _add_block_inference_keys(node: CfgNode) -> None:
    # Inference mode: "single_step", "ensemble", "multi_step", "multi_step_ensemble" or your own.
    node.INFERENCE_MODE = "multi_step"
    # Number of Euler steps of the multi-step modes. 0 means one step per block.
    node.NUM_STEPS = 8
    # Block of "single_step", from 0. Negative numbers count from the end: -1 is the last block.
    node.SINGLE_STEP_BLOCK = 0
    # Seed of the noise z_0 at inference.
    node.NOISE_SEED = 0


def _add_detection_model_keys(node: CfgNode) -> None:
    # Number of queries M, which is also the maximum number of objects of a training image that are
    # matched with queries: the largest. The proposal network, denoising queries and IGNORE_IOU use
    # all objects.
    node.NUM_QUERIES = 50
    # Normalization after the 1x1 projection of the features ("" for none), and number of residual
    # convolution blocks after it.
    node.NECK_NORM = "GN"
    node.NECK_BLOCKS = 1
    # Frequency of the fastest sine of the positional encoding, in cycles per image. 0 means half
    # the number of tokens along the shorter side of an image (INPUT.FIXED_SIZE or MIN_SIZE_TEST),
    # minus one. A frequency above half the number of tokens would alias. A checkpoint keeps the
    # frequencies that it was trained with.
    node.POSITION_MAX_FREQUENCY = 0.0
    # Hidden units of the feed-forward part of a transformer block.
    node.FEEDFORWARD_DIM = 512
    # Head that decodes embeddings to boxes: "linear" (the paper) or "mlp".
    node.BOX_HEAD = "mlp"

    # Whether queries have learned positional encodings, and start from learned estimates of z_1
    # whose boxes lie on a grid.
    node.ANCHORED_QUERIES = True
    # Whether cross-attention is centered at the box that the estimate decodes to.
    node.BOX_ANCHORED_ATTENTION = True
    # The blocks also sample the feature maps at a grid of points in the box that the estimate
    # decodes to. This is the number of points per side. 0 is off.
    node.BOX_SAMPLES = 5
    # Number of channels that are read at each of these points. 0 means HIDDEN_DIM / 4.
    node.BOX_SAMPLE_CHANNELS = 0
    # Hidden units between the samples of all points and the query. 0 means one linear layer.
    node.BOX_SAMPLE_HIDDEN_DIM = 0

    # Memory in GiB for cached features of a frozen backbone, which then sees each image once. It
    # suits augmentations with few outcomes (none, flips). 0 is off.
    node.FEATURE_CACHE_GIB = 0.0
    # Folder where the cached features are also written, for later runs with the same images and
    # backbone. "" is off.
    node.FEATURE_CACHE_DIR = ""


def _add_detection_training_keys(node: CfgNode) -> None:
    # How targets are assigned to queries in interpolated states: "ordered", "random" or
    # "optimal_transport". Rollouts use the matching of the detection loss.
    node.COUPLING = "random"
    # Matching of queries and objects in the detection loss: "per_block" (each block, or layer of
    # the baseline, matches its own prediction) or "shared" (all blocks use the matching of the
    # first block).
    node.MATCHING = "shared"
    # Weights of L1 and GIoU of the boxes, in the loss and in the matching cost.
    node.BBOX_WEIGHT = 5.0
    node.GIOU_WEIGHT = 2.0
    # Weight of the background in the classification loss, summed over the queries of an image. The
    # weight of one background query is this value divided by NUM_QUERIES, and at most 1. So the
    # value suits any number of queries.
    node.BACKGROUND_WEIGHT_PER_IMAGE = 2.0
    # Whether the target probability of a matched query's class is the IoU of its box, so that
    # scores rank boxes by their quality.
    node.IOU_AWARE_TARGETS = True
    # A query without an object has no classification loss if its box has at least this IoU with an
    # object. 1 is off: all queries without an object are examples of background.
    node.IGNORE_IOU = 1.0
    # Weight of the losses of the first block (in BackpropDetector: layer). It doubles from block to
    # block, up to 1.
    node.FIRST_BLOCK_WEIGHT = 0.25
    # Number of denoising queries per image: in training, further queries start from perturbed boxes
    # of the objects. 0 is off. They need BOX_ANCHORED_ATTENTION.
    node.DENOISING_QUERIES = 0
    # Number of denoising queries per image that start from proposals: boxes that detectron2's
    # region proposal network finds on the feature maps. MODEL.RPN and MODEL.ANCHOR_GENERATOR
    # configure it; each block draws from its MODEL.RPN.POST_NMS_TOPK_TRAIN best boxes, which must
    # be at least as many. If the network finds fewer in an image, boxes are drawn again; if it
    # finds none, the queries start at the whole image. 0 is off. They need BOX_ANCHORED_ATTENTION.
    node.PROPOSAL_QUERIES = 0
    # Highest noise level s of a perturbed box. Its center is moved by s / 2 standard deviations of
    # the box size, and the logarithm of its sides by s. The level is drawn for each query.
    node.DENOISING_NOISE = 0.6
    # Smallest IoU of a perturbed box or proposal with its object. Below it, its target is
    # background.
    node.DENOISING_MIN_IOU = 0.4
    # Weight of the losses of all denoising queries.
    node.DENOISING_WEIGHT = 1.0
    # With LEARN_AT_START: weight of the losses at t = 0.
    node.START_WEIGHT = 0.25

    # Only for BackpropDetector: whether every layer has a loss, not only the last.
    node.AUXILIARY_LOSSES = True
    # Only for BackpropDetector: whether the gradient is stopped between layers.
    node.DETACH_LAYERS = False
    # Only for BackpropDetector: whether the blocks' activations are recomputed in the backward pass
    # (gradient checkpointing).
    node.CHECKPOINT_BLOCKS = False


def _add_detection_inference_keys(node: CfgNode) -> None:
    # An image takes no more steps once no box that could be reported moves by more than this
    # fraction of the image's side. 0 is off.
    node.EARLY_EXIT = 0.0
    # Scores are multiplied by box stability: the estimate before the last step is perturbed this
    # many times, the step is re-run, and the IoU with the original box is averaged. Each sample
    # costs one step. 0 is off.
    node.STABILITY_SAMPLES = 4
    # Noise of the perturbed estimates, as a fraction of their standard deviation.
    node.STABILITY_NOISE = 0.2
    # Detections whose score is not above this value are dropped.
    node.SCORE_THRESHOLD = 0.01
    # IoU threshold of class-wise non-maximum suppression.
    node.NMS_THRESHOLD = 0.5


def _add_box_transport_keys(node: CfgNode) -> None:
    # Path of the boxes of BoxTransportDetector, from noise to objects: "diffusion" (DiffusionDet)
    # or "flow" (DeFloMat: straight lines). Its other parts have the keys of FLOW_DET, of which
    # those for flow blocks, training states and inference modes have no effect.
    node.PATH = "diffusion"
    # Boxes (normalized cxcywh) are scaled from [0, 1] to [-SIGNAL_SCALE, SIGNAL_SCALE]. The noise
    # has standard deviation 1.
    node.SIGNAL_SCALE = 2.0
    # Number of time steps of the cosine schedule, for PATH diffusion.
    node.NUM_TIMESTEPS = 1000
    # Noise of the DDIM steps, for PATH diffusion: from 0 (none) to 1 (as much as DDPM).
    node.DDIM_ETA = 1.0
    # Number of sampling steps at inference.
    node.NUM_STEPS = 4
    # Between two steps, boxes whose best class probability is below this value are replaced by
    # random boxes. 0 is off.
    node.BOX_RENEWAL = 0.1
    # Whether the detections of all steps are merged by non-maximum suppression. Otherwise only
    # those of the last step count.
    node.ENSEMBLE_STEPS = True


def _add_classification_keys(node: CfgNode) -> None:
    # defaults that differ from those of FLOW_DET
    node.IN_FEATURES = []
    node.BLOCK = "mlp"
    node.STATE_NOISE = 0.0
    node.LEARN_AT_START = True
    node.STATES_TRAIN_FEATURES = False
    node.CLASS_WEIGHT = 1.0
    node.NUM_STEPS = 0

    # Which block gets which feature map: "parallel" (all blocks get the last of IN_FEATURES) or
    # "sequential" (block k gets the k-th; IN_FEATURES must have NUM_BLOCKS names).
    node.TOPOLOGY = "parallel"
    # Form of the features that a block gets: "pooled" (the mean over positions, [B, c]) or "tokens"
    # (all positions, [B, N, c]).
    node.FEATURES = "pooled"
    # Hidden units of a block.
    node.BLOCK_DIM = 512
    # Number of residual layers of "residual_mlp".
    node.BLOCK_LAYERS = 2
    # Whether class logits are computed with the target embeddings (tied), not with a separate
    # projection (W_cls).
    node.TIE_CLASSES = False
    # Numbers of Euler steps that an evaluation reports. [] means 1, 2, T and 2T.
    node.EVAL_STEPS = []


def _add_local_learning_keys(node: CfgNode) -> None:
    # The classifiers whose layers each learn from their own loss: the read-out, a linear
    # classifier, gets the layers' outputs averaged over a grid of this many cells per side. Of
    # MODEL.FLOW_CLS, these classifiers read only NUM_CLASSES.
    node.READOUT_GRID = 4


def _add_forward_forward_keys(node: CfgNode) -> None:
    # ForwardForwardClassifier, SymBaClassifier and LayerCollaborationClassifier: how a label is
    # written into an image, "pixels" (Hinton: a one-hot code in the first pixels) or "pattern"
    # (SymBa: a random pattern of each class over the whole image).
    node.LABEL = "pattern"
    # With LABEL pattern: weight of the pattern, and of the image 1 minus this value. And side of
    # the tile in pixels; the pattern repeats it.
    node.PATTERN_STRENGTH = 0.3
    node.PATTERN_SIZE = 4
    # Threshold theta of the goodness, the mean square of a layer's outputs (eq. 1). SymBa has none.
    node.THRESHOLD = 1.5
    # Factor of the goodness and of its threshold in the loss. The sum of the squares, as in the
    # paper, would have the number of units.
    node.SCALE = 10.0
    # Whether wrong labels of negative samples are drawn with the probabilities of the read-out.
    # Otherwise all wrong labels are equally probable.
    node.HARD_NEGATIVES = False
    # Configured inference mode: "goodness" (one pass for every label) or "readout" (a single pass).
    node.INFERENCE = "goodness"
    # SymBaClassifier: alpha, the factor of the difference between the goodness of positive and
    # negative samples.
    node.SYMBA_ALPHA = 4.0
    # LayerCollaborationClassifier: the layers whose goodness is added to that of a layer, "all"
    # others or the "previous" ones.
    node.COLLABORATION = "all"


def _add_stochastic_forward_forward_keys(node: CfgNode) -> None:
    # StochasticForwardForwardClassifier: number of noisy copies of an image, in training and at
    # inference. At inference, 0 is one copy without noise.
    node.SAMPLES = 20
    node.INFERENCE_SAMPLES = 20
    # Dropout probability of the pixels of a copy.
    node.NOISE = 0.2
    # Weights of the two terms of a layer's loss: effective dimension of the copies of one image,
    # and of all images.
    node.COMPRESSION_WEIGHT = 0.5
    node.DIVERSITY_WEIGHT = 0.5
    # Dimensions of the random projection before the effective dimension, one per layer. The last
    # one is that of all further layers.
    node.PROJECTION_DIMS = [30, 20, 10]


def _add_contrastive_forward_forward_keys(node: CfgNode) -> None:
    # ContrastiveForwardForwardClassifier: temperature of the similarities.
    node.TEMPERATURE = 0.15
    # Margin of the first layer, from 0 to 2, that is added to the similarities of samples of one
    # class. 0 is off: the loss has no margin. The paper's CFF+M has 0.4.
    node.MARGIN = 0.0
    # Margin of the last layer as a fraction of MARGIN. The layers between have margins between.
    node.LAST_MARGIN = 0.25


def _add_soft_hebb_keys(node: CfgNode) -> None:
    # SoftHebbClassifier: kernel size, learning rate, inverse temperature of the competition and
    # power of the triangle activation, one value per layer. The last one is that of all further
    # layers.
    node.KERNEL_SIZES = [5, 3]
    node.LEARNING_RATES = [0.08, 0.005, 0.01]
    node.INVERSE_TEMPERATURES = [1.0, 0.65, 0.25]
    node.POWERS = [0.7, 1.4, 1.0]
    # Expected norm of a channel's initial weights.
    node.INITIAL_NORM = 25.0
    # Exponent q: the learning rate of a channel is multiplied by |norm of its weights - 1|^q.
    node.RATE_POWER = 0.5
    # The layers learn in this fraction of the iterations, from the first one on. Their learning
    # rates decay linearly to 0. Then they are fixed, and only the read-out is trained.
    node.LEARNING_FRACTION = 0.5
    # Dropout probability of the read-out's features.
    node.DROPOUT = 0.5


def _add_noprop_keys(node: CfgNode) -> None:
    # NoPropClassifier: "dt" (discrete time, T blocks, each with a backbone of its own), "ct"
    # (continuous time, one network) or "fm" (flow matching, one network). Of MODEL.FLOW_CLS, it
    # reads only NUM_CLASSES.
    node.VARIANT = "dt"
    # VARIANT dt: number of blocks T.
    node.NUM_BLOCKS = 10
    # Embeddings of the classes: "one_hot", or "learned" with EMBEDDING_DIM dimensions.
    node.EMBEDDING = "one_hot"
    node.EMBEDDING_DIM = 20
    # A block gets the last stage of its backbone averaged over a grid of this many cells per side,
    # and has this many hidden units.
    node.FEATURE_GRID = 4
    node.HIDDEN_DIM = 256
    # Weight eta of the denoising losses of dt and ct.
    node.ETA = 0.1
    # VARIANT ct: logarithm of the signal-to-noise ratio at t = 0 and at t = 1.
    node.LOG_SNR = [-5.0, 5.0]
    # VARIANT ct and fm: number of ODE steps at inference.
    node.NUM_STEPS = 20
    # Seed of the noise at inference.
    node.NOISE_SEED = 0


def _add_fcos_keys(node: CfgNode) -> None:
    # The head of FCOSDetector: number of 3x3 convolutions before the outputs, for classes and for
    # boxes, and their normalization ("" for none). They have MODEL.FLOW_DET.HIDDEN_DIM channels.
    # Of the other keys of MODEL.FLOW_DET, detectors without queries read those of classes,
    # features, neck and feature cache, SCORE_THRESHOLD and NMS_THRESHOLD.
    node.NUM_CONVS = 4
    node.NORM = "GN"
    # Initial probability of every class at every location.
    node.PRIOR_PROB = 0.01
    # A location is positive if it lies in a box, and within this many strides of its center.
    node.CENTER_SAMPLING_RADIUS = 1.5
    # The focal loss of the classes: weight of the positive locations, and exponent.
    node.FOCAL_LOSS_ALPHA = 0.25
    node.FOCAL_LOSS_GAMMA = 2.0
    # Maximum number of predictions per feature map before non-maximum suppression.
    node.TOPK_CANDIDATES = 1000


def _add_backbone_keys(cfg: CfgNode) -> None:
    # Numbers of channels of the stem, res2 and res3 (strides 4, 4, 8) of
    # "build_small_resnet_backbone", and numbers of residual blocks of res2 and res3.
    cfg.MODEL.SMALL_RESNET = CfgNode({"CHANNELS": [32, 32, 128], "BLOCKS": [1, 2]})
    # Numbers of channels of the stages of "build_cnn_backbone". Each stage halves the size of its
    # input.
    cfg.MODEL.CNN = CfgNode({"CHANNELS": [96, 384, 1536]})
    # "build_vit_backbone": torchvision's VisionTransformer for images of INPUT.FIXED_SIZE. STEM is
    # "patch" (a linear projection of patches) or "conv" (convolutions to equally many tokens).
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


def _add_detection_data_keys(cfg: CfgNode) -> None:
    # Folder of a detection dataset in one of the layouts of docs/custom_datasets.md. It replaces
    # DATASETS.TRAIN and TEST. `tools/train_net.py --data` sets it.
    cfg.DATASETS.PATH = ""
    # Format of the dataset in DATASETS.PATH, such as "COCO". "" recognizes it.
    cfg.DATASETS.FORMAT = ""
    # What a box, image or annotation of DATASETS.PATH that cannot be used does: "stop" (the
    # training) or "skip" (leave it out, count it and list it in the log and the report).
    cfg.DATASETS.ON_PROBLEM = "stop"
    # If DATASETS.PATH has no validation split: fraction of its training images that is held out for
    # it, and the seed of the selection. 0 trains on all images, without evaluation.
    cfg.DATASETS.HOLD_OUT = 0.2
    cfg.DATASETS.HOLD_OUT_SEED = 0
    # Whether objects that are marked difficult (VOC) are used in training. The evaluator always
    # ignores them.
    cfg.DATASETS.TRAIN_ON_DIFFICULT = False
    # Lowest and highest pixel value of images that do not have 8 bits per channel. They are scaled
    # from this range to 0..255, and a value outside of it is an error. [] is the full range of the
    # pixel type: [0, 65535] for 16 bits, [0, 1] for floats. A 12-bit camera needs [0, 4095].
    cfg.INPUT.VALUE_RANGE = []
    # (height, width) to which every image is resized, in training and testing. [0, 0] is off: then
    # INPUT.MIN_SIZE_* and MAX_SIZE_* apply.
    cfg.INPUT.FIXED_SIZE = [0, 0]
    # Augmentation in detection: brightness, contrast and saturation are multiplied by random
    # factors from 1 - x to 1 + x, where x is this value. 0 is off.
    cfg.INPUT.COLOR_JITTER = 0.0
    # Augmentation in detection: the image is scaled by a random factor from this range, then
    # cropped or padded to INPUT.FIXED_SIZE. [1, 1] is off.
    cfg.INPUT.SCALE_JITTER = [1.0, 1.0]


def _add_classification_data_keys(cfg: CfgNode) -> None:
    # Whether missing classification datasets are downloaded (by torchvision).
    cfg.DATASETS.DOWNLOAD = False
    # Memory limit in GiB. The images of a classification dataset are decoded only once and kept in
    # memory if they need at most this much.
    cfg.DATALOADER.IN_MEMORY_GIB = 2.0
    # Augmentation in classification: number of pixels of padding before a random crop of the
    # original size. 0 is off. (detectron2's INPUT.RANDOM_FLIP also applies to classification.)
    cfg.INPUT.CROP_PADDING = 0
    # Augmentation in classification: smallest fraction of the image's area in a random resized
    # crop. 0 is off.
    cfg.INPUT.RESIZED_CROP_AREA = 0.0
    # Augmentation in classification: policy of torchvision's AutoAugment, "cifar10", "imagenet" or
    # "svhn". "" is off.
    cfg.INPUT.AUTO_AUGMENT = ""
    # Augmentation in classification: probability that a random rectangle of the image is erased.
    cfg.INPUT.RANDOM_ERASING = 0.0
    # Augmentation in classification: largest angle of a random rotation, in degrees.
    cfg.INPUT.RANDOM_ROTATION = 0.0
    # Augmentation in classification: whether every training image is also given in a second,
    # independently augmented view. Only ContrastiveForwardForwardClassifier uses it.
    cfg.INPUT.SECOND_VIEW = False


def _add_evaluation_keys(cfg: CfgNode) -> None:
    # Number of images per batch in evaluation, in each process.
    cfg.TEST.BATCH_SIZE = 8
    # Names of classes. VOC evaluation also reports the means over them, as AP-subset, AP50-subset
    # and AP75-subset.
    cfg.TEST.CLASS_SUBSET = []
    # Number of images of each test dataset whose results every evaluation writes to TensorBoard. 0
    # is off.
    cfg.TEST.SAMPLE_IMAGES = 6
    # Whether a training writes report.html at its end.
    cfg.TEST.REPORT = True
    # Number of test images from which the report shows the best and the worst. 0 leaves them out.
    cfg.TEST.REPORT_IMAGES = 100
    # Whether the explorer of these best and worst images is written next to the report of a
    # detector with queries.
    cfg.TEST.REPORT_EXPLORER = True


def _add_solver_keys(cfg: CfgNode) -> None:
    # Optimizer: "AdamW" or "SGD".
    cfg.SOLVER.OPTIMIZER = "AdamW"
    # Learning rate of the backbone, as a fraction of BASE_LR.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    # Decay of an exponential moving average of the weights. The average is also evaluated; the
    # names of its results end in "_ema". 0 is off.
    cfg.SOLVER.EMA_DECAY = 0.0
    # The schedule in epochs of the training dataset. MAX_EPOCHS above 0 sets MAX_ITER. In the same
    # way, the others set STEPS, WARMUP_ITERS, CHECKPOINT_PERIOD and TEST.EVAL_PERIOD. 0 or []
    # leaves the number of iterations unchanged.
    cfg.SOLVER.MAX_EPOCHS = 0
    cfg.SOLVER.STEP_EPOCHS = []
    cfg.SOLVER.WARMUP_EPOCHS = 0
    cfg.SOLVER.CHECKPOINT_EPOCHS = 0
    cfg.TEST.EVAL_EPOCHS = 0


def state_settings(node: CfgNode) -> StateSettings:
    """Returns the settings of the training states in `MODEL.FLOW_DET` or `MODEL.FLOW_CLS`.

    Raises:
        ValueError: a key is unknown or out of range.
    """
    return StateSettings(
        kind=node.TRAINING_STATES,
        learn_at_start=node.LEARN_AT_START,
        states_train_features=node.STATES_TRAIN_FEATURES,
        rollout_steps=tuple(node.ROLLOUT_STEPS),
        state_noise=node.STATE_NOISE,
    )


def inference_settings(node: CfgNode) -> InferenceSettings:
    """Returns the inference settings in `MODEL.FLOW_DET` or `MODEL.FLOW_CLS`.

    `NUM_STEPS` 0 means one step per block. A negative `SINGLE_STEP_BLOCK` counts from the end.

    Raises:
        ValueError: `EARLY_EXIT` is negative.
    """
    count, block = node.NUM_BLOCKS, node.SINGLE_STEP_BLOCK
    plan = InferencePlan(
        node.INFERENCE_MODE, node.NUM_STEPS or count, block + count if block < 0 else block
    )
    return InferenceSettings(plan, node.NOISE_SEED, node.get("EARLY_EXIT", 0.0))


@dataclass(frozen=True)
class PixelSettings:
    """The form of pixels that a backbone expects.

    Attributes:
        mean, std: mean and standard deviation of each channel, in the order of `format`, for values
            from 0 to 255.
        format: order of the channels, "RGB" or "BGR".
    """

    mean: Sequence[float]
    std: Sequence[float]
    format: str


def pixel_settings(cfg: CfgNode) -> PixelSettings:
    """Returns the normalization and the order of channels in a config."""
    return PixelSettings(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT)
