"""Search for good values of the configuration, with Optuna. The modules import it when they are called, never before."""
