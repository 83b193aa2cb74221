"""The papers behind the solvers, as BibTeX."""

from __future__ import annotations

DDPM = """@inproceedings{ho2020denoising,
  title = {Denoising Diffusion Probabilistic Models},
  author = {Ho, Jonathan and Jain, Ajay and Abbeel, Pieter},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020},
  eprint = {2006.11239},
}"""

DDIM = """@inproceedings{song2021denoising,
  title = {Denoising Diffusion Implicit Models},
  author = {Song, Jiaming and Meng, Chenlin and Ermon, Stefano},
  booktitle = {International Conference on Learning Representations},
  year = {2021},
  eprint = {2010.02502},
}"""

EDM = """@inproceedings{karras2022elucidating,
  title = {Elucidating the Design Space of Diffusion-Based Generative Models},
  author = {Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2022},
  eprint = {2206.00364},
}"""

DPM_SOLVER_PP = """@article{lu2022dpmpp,
  title = {{DPM-Solver++}: Fast Solver for Guided Sampling of Diffusion Probabilistic Models},
  author = {Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu, Jun},
  journal = {arXiv preprint arXiv:2211.01095},
  year = {2022},
  eprint = {2211.01095},
}"""

PNDM = """@inproceedings{liu2022pseudo,
  title = {Pseudo Numerical Methods for Diffusion Models on Manifolds},
  author = {Liu, Luping and Ren, Yi and Lin, Zhijie and Zhao, Zhou},
  booktitle = {International Conference on Learning Representations},
  year = {2022},
  eprint = {2202.09778},
}"""

UNIPC = """@inproceedings{zhao2023unipc,
  title = {{UniPC}: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models},
  author = {Zhao, Wenliang and Bai, Lujia and Rao, Yongming and Zhou, Jie and Lu, Jiwen},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023},
  eprint = {2302.04867},
}"""

CONSISTENCY = """@inproceedings{song2023consistency,
  title = {Consistency Models},
  author = {Song, Yang and Dhariwal, Prafulla and Chen, Mark and Sutskever, Ilya},
  booktitle = {International Conference on Machine Learning},
  year = {2023},
  eprint = {2303.01469},
}"""
