"""From a batch to probabilities: what is judged, saved and exported."""

from whet.predict.calibrated import Calibrated
from whet.predict.estimators import EstimatorPredictor
from whet.predict.files import take_weights
from whet.predict.means import MeanPredictor
from whet.predict.models import LivePredictor, ModelPredictor, model_state
from whet.predict.predictor import Predictor, State, as_logits
from whet.predict.stacked import Stacked
from whet.predict.viewed import Viewed, Views

__all__ = [
    "Calibrated", "EstimatorPredictor", "LivePredictor", "MeanPredictor", "ModelPredictor",
    "Predictor", "Stacked", "State", "Viewed", "Views", "as_logits", "model_state", "take_weights",
]  # fmt: skip
