"""The paper, recomputed: every figure and every statement, each with a number, a tolerance and a verdict."""
