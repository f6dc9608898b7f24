# filled by the packaging part
