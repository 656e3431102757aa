"""Other words for the tensors of a ResNet: regular expressions and torchvision's names in their
place, obeyed in this order."""

SEQUENTIAL = (  # Sequential(*resnet.children()): conv1, bn1, relu, maxpool, layer1 ... layer4
    (r"0\.(weight)", r"conv1.\1"),
    (r"1\.(.*)", r"bn1.\1"),
    (r"4\.(\d.*)", r"layer1.\1"),
    (r"5\.(\d.*)", r"layer2.\1"),
    (r"6\.(\d.*)", r"layer3.\1"),
    (r"7\.(\d.*)", r"layer4.\1"),
)
DETECTRON2 = (
    (r"stem\.conv1\.norm\.(.*)", r"bn1.\1"),
    (r"stem\.conv1\.(.*)", r"conv1.\1"),
    (r"res2\.(.*)", r"layer1.\1"),
    (r"res3\.(.*)", r"layer2.\1"),
    (r"res4\.(.*)", r"layer3.\1"),
    (r"res5\.(.*)", r"layer4.\1"),
    (r"(layer.*)\.conv(\d)\.norm\.(.*)", r"\1.bn\2.\3"),
    (r"(layer.*)\.shortcut\.norm\.(.*)", r"\1.downsample.1.\2"),
    (r"(layer.*)\.shortcut\.(weight)", r"\1.downsample.0.\2"),
)
CAFFE2 = (
    (r"(?:res_)?conv1_bn_(.*)", r"bn1_\1"),
    (r"res2_(.*)", r"layer1_\1"),
    (r"res3_(.*)", r"layer2_\1"),
    (r"res4_(.*)", r"layer3_\1"),
    (r"res5_(.*)", r"layer4_\1"),
    (r"(layer\d)_(\d+)_branch1_bn_(.*)", r"\1.\2.downsample.1_\3"),
    (r"(layer\d)_(\d+)_branch1_w", r"\1.\2.downsample.0_w"),
    (r"(layer\d)_(\d+)_branch2a_bn_(.*)", r"\1.\2.bn1_\3"),
    (r"(layer\d)_(\d+)_branch2a_w", r"\1.\2.conv1_w"),
    (r"(layer\d)_(\d+)_branch2b_bn_(.*)", r"\1.\2.bn2_\3"),
    (r"(layer\d)_(\d+)_branch2b_w", r"\1.\2.conv2_w"),
    (r"(layer\d)_(\d+)_branch2c_bn_(.*)", r"\1.\2.bn3_\3"),
    (r"(layer\d)_(\d+)_branch2c_w", r"\1.\2.conv3_w"),
    (r"(.*)_(?:w|gamma|s)", r"\1.weight"),
    (r"(.*(?:bn\d|downsample\.1))_(?:beta|b)", r"\1.bias"),
    (r"(.*)_(?:running_mean|rm)", r"\1.running_mean"),
    (r"(.*)_(?:running_var|riv)", r"\1.running_var"),
)
HUGGING_FACE = (
    (r"embedder\.embedder\.convolution\.(.*)", r"conv1.\1"),
    (r"embedder\.embedder\.normalization\.(.*)", r"bn1.\1"),
    (r"encoder\.stages\.0\.(.*)", r"layer1.\1"),
    (r"encoder\.stages\.1\.(.*)", r"layer2.\1"),
    (r"encoder\.stages\.2\.(.*)", r"layer3.\1"),
    (r"encoder\.stages\.3\.(.*)", r"layer4.\1"),
    (r"(layer\d)\.layers\.(\d+)\.(.*)", r"\1.\2.\3"),
    (r"(layer.*)\.shortcut\.convolution\.(.*)", r"\1.downsample.0.\2"),
    (r"(layer.*)\.shortcut\.normalization\.(.*)", r"\1.downsample.1.\2"),
    (r"(layer.*)\.layer\.0\.convolution\.(.*)", r"\1.conv1.\2"),
    (r"(layer.*)\.layer\.0\.normalization\.(.*)", r"\1.bn1.\2"),
    (r"(layer.*)\.layer\.1\.convolution\.(.*)", r"\1.conv2.\2"),
    (r"(layer.*)\.layer\.1\.normalization\.(.*)", r"\1.bn2.\2"),
    (r"(layer.*)\.layer\.2\.convolution\.(.*)", r"\1.conv3.\2"),
    (r"(layer.*)\.layer\.2\.normalization\.(.*)", r"\1.bn3.\2"),
)
