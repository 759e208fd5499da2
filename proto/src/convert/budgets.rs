use super::{name, parsed, required};
use crate::egress::v1 as pb;
use hoistway_model::{
    Error, Name, Result,
    budget::{Budget, BudgetLimit, BudgetUse, LimitUse},
    egress::BudgetNotice,
};

impl From<(BudgetLimit, u128)> for pb::BudgetLimit {
    fn from((limit, most): (BudgetLimit, u128)) -> Self {
        Self { limit: limit.as_str().into(), most: most.to_string() }
    }
}

impl TryFrom<pb::BudgetLimit> for (BudgetLimit, u128) {
    type Error = Error;

    fn try_from(l: pb::BudgetLimit) -> Result<Self> {
        Ok((parsed("limit.limit", &l.limit)?, parsed("limit.most", &l.most)?))
    }
}

impl From<LimitUse> for pb::LimitUse {
    fn from(u: LimitUse) -> Self {
        Self { limit: Some((u.limit, u.most).into()), used: u.used.to_string(), resets_at: u.resets_at }
    }
}

impl TryFrom<pb::LimitUse> for LimitUse {
    type Error = Error;

    fn try_from(u: pb::LimitUse) -> Result<Self> {
        let (limit, most) = required("limit", u.limit)?.try_into()?;
        Ok(Self { limit, most, used: parsed("limit.used", &u.used)?, resets_at: u.resets_at })
    }
}

impl From<BudgetNotice> for pb::BudgetNotice {
    fn from(n: BudgetNotice) -> Self {
        Self { time: n.at, agent: n.agent.into(), limit: Some(n.limit.into()), exceeded: n.is_exceeded }
    }
}

impl TryFrom<pb::BudgetNotice> for BudgetNotice {
    type Error = Error;

    fn try_from(n: pb::BudgetNotice) -> Result<Self> {
        let limit = required("budget.limit", n.limit)?.try_into()?;
        Ok(Self { at: n.time, agent: name("budget.agent", &n.agent)?, limit, is_exceeded: n.exceeded })
    }
}

impl From<Option<BudgetUse>> for pb::GetBudgetResponse {
    fn from(budget: Option<BudgetUse>) -> Self {
        let BudgetUse { limits, unpriced_models } = budget.unwrap_or_default();
        Self { limits: limits.into_iter().map(Into::into).collect(), unpriced_models }
    }
}

impl TryFrom<pb::GetBudgetResponse> for Option<BudgetUse> {
    type Error = Error;

    fn try_from(r: pb::GetBudgetResponse) -> Result<Self> {
        let limits: Vec<LimitUse> = r.limits.into_iter().map(TryInto::try_into).collect::<Result<_>>()?;
        Ok((!limits.is_empty()).then_some(BudgetUse { limits, unpriced_models: r.unpriced_models }))
    }
}

impl From<(Name, Option<Budget>)> for pb::SetBudgetRequest {
    fn from((agent, budget): (Name, Option<Budget>)) -> Self {
        let limits = budget.iter().flat_map(Budget::limits).map(|limit| (*limit).into()).collect();
        Self { agent: agent.into(), limits }
    }
}

impl TryFrom<pb::SetBudgetRequest> for (Name, Option<Budget>) {
    type Error = Error;

    fn try_from(r: pb::SetBudgetRequest) -> Result<Self> {
        let limits: Vec<_> = r.limits.into_iter().map(TryInto::try_into).collect::<Result<_>>()?;
        let budget = if limits.is_empty() { None } else { Some(Budget::new(limits)?) };
        Ok((name("agent", &r.agent)?, budget))
    }
}
