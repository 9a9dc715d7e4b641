"""The wiring of a training, looked at in its first epoch: does everything that should learn, learn, from what it should.

`checks` are pure functions over measured values, for any loop; the other modules measure them in the trainer. Nothing here influences
training or draws a random number that training would have drawn.
"""
