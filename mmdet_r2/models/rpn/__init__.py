"""Region proposal network: anchors, head, proposal selection."""

from .anchors import AnchorGenerator
from .head import RPNHead
from .proposals import Proposals, ProposalSelector

__all__ = ['AnchorGenerator', 'ProposalSelector', 'Proposals', 'RPNHead']
