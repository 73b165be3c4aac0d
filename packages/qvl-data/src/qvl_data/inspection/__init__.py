"""What a data set holds, for people and programs: reports of a check, previews of samples, and their pages."""
