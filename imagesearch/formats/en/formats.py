"""How pages write dates and times: times with their zone, because one without is read as the reader's own."""

DATE_FORMAT = "j M Y"
DATETIME_FORMAT = "j M Y, H:i T"
