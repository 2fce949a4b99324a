"""Stage 3: feature vectors become probabilities of fraud, by the model behind `ports.Scorer`.

Takes the matrix of stage 2, gives float32 (n,) within 0 to 1. What a model returns is checked for
every batch, since a score decides about somebody's payment: another shape, another type, a NaN or a
value outside 0 to 1 is a ScoringError. Imports no model runtime.
"""

import numpy as np

from app.errors import ScoringError
from app.ports import Scorer
from app.records import Float32s


def score(matrix: Float32s, scorer: Scorer) -> Float32s:
    """Probabilities, float32 (n,), of a C-contiguous float32 matrix (n, features).

    Raises ScoringError if the model's answer is no score for each row. No row needs no model.
    """
    n = len(matrix)
    if n == 0:
        return np.empty(0, np.float32)
    scores = scorer.score_many(matrix)
    if scores.dtype != np.float32 or scores.shape != (n,):
        found = f"{scores.dtype}{list(scores.shape)}"
        msg = f"{scorer.model_id} returned {found} for {n} rows, not float32[{n}]"
        raise ScoringError(msg)
    # NaN fails both comparisons, so counting what passes leaves nothing out.
    wrong = n - int(np.count_nonzero((scores >= 0) & (scores <= 1)))
    if wrong:
        msg = f"{scorer.model_id} gave {wrong} of {n} scores outside 0 to 1 (or NaN)"
        raise ScoringError(msg)
    return scores
