"""Linear and mixed models of atlas regions: joins roi and glm."""
