"""Open-loop evaluation: does the policy predict the demonstrated actions from what the robot saw?"""
