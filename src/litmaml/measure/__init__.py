"""What is measured of a learner and its tasks: curvature, noise, cost, kinks, and the formulas of the theory."""
