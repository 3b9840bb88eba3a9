"""The paper's classifier: two backbones, and a head over what they give.

B batch · T tokens · R regions · L layers · D joint width · K classes
"""

import torch
from torch import Tensor, nn

from kit.backbones import ImageBackbone, TextBackbone
from kit.config import TrainConfig
from kit.layers import BiLSTM, CoAttention, WeightedLayers, linear


class CoAttentionHead(nn.Module):
    """Weighted layers → BiLSTM → co-attention with the image's regions → classifier (paper section 3.2).

    `layer_weights=False` takes the top layer only, `bilstm=False` a linear layer in the BiLSTM's place, `attention`
    "text" or "image" gives the classifier that attended vector alone: the paper's four ablations. A linear layer brings
    the regions to `width` where the image backbone has another.
    """
