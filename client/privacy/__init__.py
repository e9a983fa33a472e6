"""The privacy engine, the only importer of opacus. In the order of one step:

budget.py             what the study may spend at this hospital, and the hard stop
calibration.py        ... from epsilon to the noise multiplier sigma
accounting.py         ... and back, by two accountants
sampling.py           Poisson draws of patients and their views
chunks.py             a draw in chunks that fit into memory
engine.py             one noised step; clipping by Opacus' hooks as the reference
book_keeping.py       clipping at about the price of a plain step
layer_rules.py        ... per-patient gradients of each kind of layer
patient_gradients.py  ... as rows or Gram norms
precision.py          ... in TF32 or bf16 on a GPU, tried on synthetic images first
randomness.py         the noise: ChaCha20 from the operating system's entropy
guessing.py           how often a guess whether a patient took part can be right
"""
