"""The field's other exact theories, by statement: stepwise learning, siamese networks, dimensional collapse."""
