"""What ``scripts/gpu_check.py`` runs; of other packages than torch only where a part says so."""
