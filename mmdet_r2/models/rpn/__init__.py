"""Region proposal network: anchors, head, proposal selection."""

from .anchors import AnchorGenerator, LegacyAnchorGenerator
from .head import RPNHead
from .proposals import Proposals, ProposalSelector

__all__ = [
    'AnchorGenerator',
    'LegacyAnchorGenerator',
    'ProposalSelector',
    'Proposals',
    'RPNHead',
]
