"""What TRIPOD+AI and CLAIM ask of a report, each item in short words of our own.

TRIPOD+AI: Collins et al., BMJ 2024;385:e078378, table 2, 27 items in 52 parts. CLAIM: Mongan, Moy and
Kahn, Radiology: Artificial Intelligence 2020;2(2):e200029, as updated by Tejani et al. 2024;6(4):e240300,
44 items. For what an item means the papers are to be read, not this list.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """`asks` what, which facts of a run are `known` about it (server/checklist.py), and what is `left`.

    `left` is what only the investigators can write; empty where the facts are the whole answer.
    """

    number: str
    asks: str
    known: tuple[str, ...] = ()
    left: str = ""


TRIPOD_AI: dict[str, tuple[Item, ...]] = {
    "Title and abstract": (
        Item("1", "title: a prediction model, its patients and outcome", ("task",), "the title"),
        Item(
            "2",
            "abstract, by the guideline's own list",
            ("task", "sites", "discrimination"),
            "the abstract",
        ),
    ),
    "Introduction": (
        Item("3a", "clinical context, why this model, earlier models", (), "all of it"),
        Item("3b", "for whom, where in the care pathway, used by whom", ("use",), "the pathway"),
        Item("3c", "known health inequalities", (), "all of it"),
        Item("4", "objectives: development, evaluation or both", ("design",), "the hypotheses"),
    ),
    "Methods": (
        Item(
            "5a", "sources of the data, why these, for whom they stand", ("sites",), "why, for whom"
        ),
        Item("5b", "from when to when patients were included", (), "the dates at each hospital"),
        Item(
            "6a", "setting, number and place of the centres", ("sites",), "kind and place of each"
        ),
        Item("6b", "who was eligible", ("inclusion",), "the criteria at each hospital"),
        Item("6c", "treatments received", (), "all of it, where it matters"),
        Item("7", "preparation and quality checks", ("input", "unread"), "by group of patients"),
        Item(
            "8a",
            "the outcome: definition, when and how found",
            ("outcome",),
            "how labels were made",
        ),
        Item("8b", "who judged the outcome", (), "who, with which experience"),
        Item("8c", "blinding of the outcome", (), "all of it"),
        Item("9a", "choice of predictors", ("predictors",)),
        Item("9b", "definition of the predictors", ("input",), "how they were taken"),
        Item("9c", "who judged the predictors", (), "who"),
        Item("10", "study size and its reason", ("sites", "cohorts"), "the reason"),
        Item("11", "missing data", ("unread",), "how many were set aside, and why"),
        Item("12a", "use and partition of the data", ("partition",)),
        Item("12b", "handling of predictors", ("input", "augmentation")),
        Item(
            "12c",
            "kind of model, building, tuning, internal validation",
            ("architecture", "initial", "training", "aggregation", "partition"),
            "how the settings were chosen",
        ),
        Item("12d", "differences between centres", ("centres",), "what was done about them"),
        Item("12e", "measures of performance and their reason", ("metrics",), "the reason"),
        Item("12f", "recalibration or other updating", ("temperature",), "other updating"),
        Item("12g", "how predictions were computed", ("predictions",)),
        Item("13", "class imbalance", ("imbalance",), "anything done at a hospital"),
        Item("14", "fairness", ("groups",), "what was done for it"),
        Item("15", "output, and how thresholds were found", ("output", "threshold")),
        Item("16", "training against evaluation data", ("internal",), "differences in time"),
        Item("17", "ethics vote and consent", (), "at each hospital"),
    ),
    "Open science": (
        Item("18a", "funding", (), "all of it"),
        Item("18b", "conflicts of interest", (), "all of it"),
        Item("18c", "where the protocol is", ("protocol",), "where it can be had"),
        Item("18d", "registration", (), "register and number, or that there is none"),
        Item("18e", "availability of the data", ("data",), "on what terms, if any"),
        Item("18f", "availability of the code", ("software",), "analyses of your own"),
    ),
    "Patient and public involvement": (Item("19", "involvement, or none", (), "all of it"),),
    "Results": (
        Item(
            "20a", "flow of patients, with and without outcome", ("flow", "counts"), "the numbers"
        ),
        Item(
            "20b", "characteristics, by centre", ("cohorts", "groups"), "the table, from each site"
        ),
        Item("20c", "comparison with the development data", ("internal",), "the comparison"),
        Item("21", "patients and outcomes in each analysis", ("cohorts", "counts"), "the outcomes"),
        Item("22", "the model in full, for use by others", ("weights", "input"), "terms of use"),
        Item("23a", "performance with intervals", ("discrimination", "threshold", "calibration")),
        Item("23b", "performance by centre", ("centres",), "each hospital's own, if it agrees"),
        Item("24", "results of updating", ("temperature",), "other updating"),
    ),
    "Discussion": (
        Item("25", "what the results mean, fairness included", (), "all of it"),
        Item("26", "limitations", ("limits",), "those of your data"),
        Item("27a", "poor or missing input in use", ("unusable",), "all beyond that"),
        Item("27b", "what users have to do and know", ("use",), "the expertise"),
        Item("27c", "what to do next", ("internal",), "the next study"),
    ),
}

CLAIM: dict[str, tuple[Item, ...]] = {
    "Title and abstract": (
        Item("1", "named as AI, with the kind of technique", ("architecture",), "the title"),
        Item("2", "structured abstract", ("task", "sites", "discrimination"), "the abstract"),
    ),
    "Introduction": (
        Item("3", "background, intended use and clinical role", ("use",), "the background"),
        Item("4", "aims and hypotheses", ("task",), "the hypotheses"),
    ),
    "Methods: design": (
        Item("5", "prospective or retrospective", (), "which, at each hospital"),
        Item("6", "goal of the study", ("design",), "the clinical goal"),
    ),
    "Methods: data": (
        Item("7", "sources of the data", ("sites",), "archives, years, scanners"),
        Item("8", "who was included and excluded", ("inclusion",), "the criteria"),
        Item("9", "preprocessing", ("input", "augmentation")),
        Item("10", "choice of parts of the data", ("patch",), "anything left out before"),
        Item("11", "de-identification", ("stays",), "at each hospital, before the study"),
        Item("12", "missing data", ("unread",), "how many, and why"),
        Item(
            "13", "how the images were acquired", ("window",), "scanners, kernels, dose, contrast"
        ),
    ),
    "Methods: reference standard": (
        Item("14", "how the reference standard was obtained", ("outcome",), "how labels were made"),
        Item("15", "why this one", (), "all of it"),
        Item("16", "where the annotations come from", (), "readers and their experience"),
        Item("17", "annotation of the test set", ("sameness",), "readers and tools"),
        Item("18", "agreement between and within readers", (), "all of it"),
    ),
    "Methods: partitions": (
        Item("19", "how data were assigned", ("partition",)),
        Item("20", "at which level partitions are disjoint", ("disjoint",)),
        Item("21", "size of the test set and its reason", ("counts",), "the size and its reason"),
    ),
    "Methods: model and training": (
        Item("22", "the model in detail", ("architecture", "input", "output")),
        Item("23", "software", ("software",)),
        Item("24", "initial weights", ("initial",)),
        Item("25", "training", ("training", "aggregation", "privacy"), "how settings were chosen"),
        Item("26", "how the final model was chosen", ("chosen",)),
        Item("27", "ensembling", ("ensemble",)),
    ),
    "Methods: evaluation": (
        Item("28", "measures of performance", ("metrics",), "why these"),
        Item("29", "uncertainty and tests", ("uncertainty",), "tests of your own"),
        Item("30", "robustness", (), "all of it"),
        Item("31", "explanation, and how it was checked", (), "all of it"),
        Item("32", "evaluation on internal data", ("internal",)),
        Item("33", "testing on external data", ("external",), "the external test"),
        Item("34", "registration of a clinical trial", (), "register and number, if it is one"),
    ),
    "Results": (
        Item("35", "patients included and excluded", ("flow", "counts"), "the numbers, a diagram"),
        Item("36", "characteristics in each partition", ("cohorts", "groups"), "the table"),
        Item(
            "37",
            "performance on all partitions",
            ("discrimination", "calibration"),
            "on other data",
        ),
        Item("38", "diagnostic accuracy with its precision", ("threshold",)),
        Item("39", "what was classified wrongly", (), "cases, as each hospital sees them"),
    ),
    "Discussion": (
        Item("40", "limitations", ("limits",), "those of your data"),
        Item("41", "meaning for practice", ("use",), "all beyond that"),
    ),
    "Other information": (
        Item("42", "full protocol and technical details", ("protocol",), "where it can be had"),
        Item(
            "43",
            "availability of software, model and data",
            ("software", "weights", "data"),
            "terms",
        ),
        Item("44", "funding and the funders' role", (), "all of it"),
    ),
}
