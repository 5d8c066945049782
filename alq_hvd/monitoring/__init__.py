"""``compression.metrics()`` for people who watch a run: in TensorBoard, or scraped by Prometheus."""

from alq_hvd.monitoring.prometheus import PrometheusMetrics
from alq_hvd.monitoring.tensorboard import TensorBoardMetrics

__all__ = ["PrometheusMetrics", "TensorBoardMetrics"]
