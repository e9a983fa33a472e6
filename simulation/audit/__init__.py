"""`intramural-simulate audit`: does the code that would train a study do what its claim rests on?

throwaway.py   the study's mechanism on patients who do not exist
mechanism.py   exact tests of noise, sensitivity and sampling
canaries.py    membership: a one-run audit with canaries
inversion.py   pictures: an attack on one patient's update
outcome.py     what was found, and whether it held
page.py        audit.html
command.py     all of it, the table and the files

An audit that has never failed shows little. Bugs planted on purpose at epsilon 8, the parts that find
them, and "-" where a part misses one (tests/integration/test_audit.py holds this table):

    planted bug                             noise  sensitivity  sampling  canaries  inversion
    privacy switched off                    found  found        found     found     found
    noise halved                            found  -            -         found     -
    noise missing in one of eight steps     found  -            -         -         -
    no noise where a patient was drawn      -      -            -         found     found
    the same noise in every step            found  -            -         -         -
    noise from a seed                       found  -            -         -         -
    uniform noise                           found  -            -         -         -
    no clipping                             -      found        found     found     found
    clipping norm doubled                   -      found        found     found     -
    clipped by image, not by patient        -      found        found     found     -
    a broken image not zeroed               -      found        -         -         -
    everybody drawn, q ignored              -      -            found     found     -
    draws of a fixed size                   -      -            found     -         -
    denominator from the private cohort     found  -            found     -         -
    noise calibrated for one round          -      -            -         found     -

What the canaries find, their Gaussian fit finds. The rigorous lower bound cannot exceed 6.5 at delta
1e-5, and so finds nothing at epsilon 8. Of privacy switched off or no clipping it proves 6.5, enough at
epsilon 1 to 3; halved noise it found at epsilon 2 (2.38) and missed at 1 (0.96) and at 3 (2.74).
"""
