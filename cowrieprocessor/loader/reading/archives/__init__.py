"""Files that hold logs as files: zip, tar, and archives that are compressed twice."""
