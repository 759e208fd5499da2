use super::{name, optional, parsed};
use crate::egress::v1 as pb;
use hoistway_model::{
    Error, Result,
    usage::{UsageGroups, UsageQuery, UsageReport, UsageRow, UsageSums},
};

impl From<UsageQuery> for pb::GetUsageRequest {
    fn from(q: UsageQuery) -> Self {
        Self {
            agent: q.agent.map(Into::into).unwrap_or_default(),
            provider: q.provider.map(Into::into).unwrap_or_default(),
            model: q.model.unwrap_or_default(),
            user: q.user.unwrap_or_default(),
            from: q.from,
            to: q.to,
            per: q.per.as_str().into(),
            by_agent: q.group_by.agent,
            by_provider: q.group_by.provider,
            by_model: q.group_by.model,
            by_user: q.group_by.user,
        }
    }
}

impl TryFrom<pb::GetUsageRequest> for UsageQuery {
    type Error = Error;

    fn try_from(r: pb::GetUsageRequest) -> Result<Self> {
        Ok(Self {
            agent: optional(r.agent).map(|agent| name("agent", &agent)).transpose()?,
            provider: optional(r.provider).map(|provider| name("provider", &provider)).transpose()?,
            model: optional(r.model),
            user: optional(r.user),
            from: r.from,
            to: r.to,
            per: parsed("per", &r.per)?,
            group_by: UsageGroups { agent: r.by_agent, provider: r.by_provider, model: r.by_model, user: r.by_user },
        })
    }
}

impl From<UsageReport> for pb::GetUsageResponse {
    fn from(r: UsageReport) -> Self {
        Self { from: r.from, to: r.to, usage: r.rows.into_iter().map(Into::into).collect() }
    }
}

impl TryFrom<pb::GetUsageResponse> for UsageReport {
    type Error = Error;

    fn try_from(r: pb::GetUsageResponse) -> Result<Self> {
        let rows = r.usage.into_iter().map(TryInto::try_into).collect::<Result<_>>()?;
        Ok(Self { from: r.from, to: r.to, rows })
    }
}

impl From<UsageRow> for pb::Usage {
    fn from(r: UsageRow) -> Self {
        Self {
            start: r.start,
            agent: r.agent,
            provider: r.provider,
            model: r.model,
            user: r.user,
            requests: r.sums.requests,
            failed_requests: r.sums.failed_requests,
            estimated_requests: r.sums.estimated_requests,
            priced_requests: r.sums.priced_requests,
            input_tokens: r.sums.input_tokens,
            cached_input_tokens: r.sums.cached_input_tokens,
            output_tokens: r.sums.output_tokens,
            cost: r.sums.cost.to_string(),
        }
    }
}

impl TryFrom<pb::Usage> for UsageRow {
    type Error = Error;

    fn try_from(r: pb::Usage) -> Result<Self> {
        let sums = UsageSums {
            requests: r.requests,
            failed_requests: r.failed_requests,
            estimated_requests: r.estimated_requests,
            priced_requests: r.priced_requests,
            input_tokens: r.input_tokens,
            cached_input_tokens: r.cached_input_tokens,
            output_tokens: r.output_tokens,
            cost: r.cost.parse().map_err(|()| Error::field("usage.cost", "is not an amount"))?,
        };
        Ok(Self { start: r.start, agent: r.agent, provider: r.provider, model: r.model, user: r.user, sums })
    }
}
