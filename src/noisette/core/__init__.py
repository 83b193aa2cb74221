"""The core: levels, predictions, denoisers and their algebra, the sampling and training loops.

Everything in noisette is a few lines over this page. It imports torch and nothing of ours.
"""

from .attention import Attention as Attention
from .attention import Proceed as Proceed
from .attention import Rule as Rule
from .attention import attend as attend
from .denoiser import Cond as Cond
from .denoiser import Denoiser as Denoiser
from .denoiser import IndexTime as IndexTime
from .denoiser import LogSigmaTime as LogSigmaTime
from .denoiser import NetDenoiser as NetDenoiser
from .denoiser import ScaledTime as ScaledTime
from .denoiser import TimeInput as TimeInput
from .denoiser import Weight as Weight
from .denoiser import affine as affine
from .denoiser import given as given
from .denoiser import guide as guide
from .denoiser import oracle as oracle
from .denoiser import together as together
from .denoiser import with_attention as with_attention
from .level import Level as Level
from .level import Schedule as Schedule
from .level import combine as combine
from .level import forward_variance as forward_variance
from .level import posterior_variance as posterior_variance
from .likelihood import Variance as Variance
from .likelihood import bits_per_dim as bits_per_dim
from .likelihood import log_variance as log_variance
from .likelihood import vlb_term as vlb_term
from .objective import Space as Space
from .objective import denoising_error as denoising_error
from .objective import prediction_error as prediction_error
from .prediction import EDM as EDM
from .prediction import X0 as X0
from .prediction import Consistency as Consistency
from .prediction import Eps as Eps
from .prediction import Flow as Flow
from .prediction import Parameterization as Parameterization
from .prediction import Prediction as Prediction
from .prediction import V as V
from .sampling import Denoise as Denoise
from .sampling import Noise as Noise
from .sampling import Solver as Solver
from .sampling import Step as Step
from .sampling import last as last
from .sampling import prior as prior
from .sampling import sample as sample
from .sampling import white as white
from .training import TrainStep as TrainStep
from .training import train as train
