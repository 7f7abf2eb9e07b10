"""How the bundled quickstart model is made: data, network, training, export, evaluation."""
