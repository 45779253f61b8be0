"""The parts of the lab's engine, each for one concern; `lab.Lab` is their face."""
