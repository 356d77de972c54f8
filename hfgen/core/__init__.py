"""What every room uses: errors, files, random numbers, pictures, devices. Imports nothing of hfgen."""
