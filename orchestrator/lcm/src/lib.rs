//! Pure life-cycle management: planner, placement, operation state machine, evidence fold
