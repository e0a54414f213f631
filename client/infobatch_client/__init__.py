"""The training client: a webdataset dataset and loader whose epochs a score server prunes."""

from infobatch_client.dataset import InfoBatchStreamDataset
from infobatch_client.loader import InfoBatchLoader
from infobatch_client.run_options import Timeouts

__all__ = ["InfoBatchLoader", "InfoBatchStreamDataset", "Timeouts"]
