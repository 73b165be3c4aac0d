"""The six domains of MMMU's thirty subjects, for files that name only the subject. MMMU at bb0b95a9, data_utils."""

from __future__ import annotations

DOMAINS = {
    "Art & Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health & Medicine": (
        *("Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy"),
        "Public_Health",
    ),
    "Humanities & Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech & Engineering": (
        *("Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics", "Energy_and_Power"),
        *("Materials", "Mechanical_Engineering"),
    ),
}


def domain_of(subject: str) -> str:
    """Give the domain of a subject, "" of a name that is none."""
    return next((domain for domain, subjects in DOMAINS.items() if subject in subjects), "")
