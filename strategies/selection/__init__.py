"""Client-selection policies, one a file, behind one Protocol."""
