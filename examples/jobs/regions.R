# Called by regions.sh: one region's model in R. Ids are text, and rows are joined by id.
paths <- commandArgs(trailingOnly = TRUE)
volumes <- read.delim(paths[1], na.strings = "n/a", quote = "", colClasses = c(participant_id = "character"))
scans <- read.delim(paths[2], na.strings = "n/a", quote = "", colClasses = c(scan_id = "character"))
data <- merge(volumes, scans, by.x = "participant_id", by.y = "scan_id")
stopifnot(nrow(data) == nrow(volumes))
fit <- lm(roi_gm_ml ~ group + age + sex + tiv, data[data$region == "Insula", ], na.action = na.fail)
group <- coef(summary(fit))["grouppatient", ]
cat(sprintf("R: Insula, patients minus controls %.4f mL, t = %.4f\n", group[["Estimate"]], group[["t value"]]))
