//! What the operator orders of whoever has the data directory: the command itself, or the server that runs.

use serde::Deserialize;
use serde_json::Value;

use super::account_orders::{self, AccountOrder};
use crate::domain::Result;
use crate::service::Services;
use crate::service::plugins::{self, PolicyOrder, Watch};
use crate::service::trail::{self, TrailOrder};

/// An order of the operator's.
#[derive(Clone, Debug)]
pub enum Order {
    /// About policies.
    Policy(Box<PolicyOrder>),
    /// About the trail.
    Trail(TrailOrder),
    /// About somebody's account.
    Account(AccountOrder),
}

impl Order {
    /// Reads what [`Order::to_json`] wrote.
    ///
    /// # Errors
    /// With what is wrong, where it is no order that this version knows.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Named {
            order: String,
        }
        // Those about policies may hold a file, which is skipped here and not kept.
        let Named { order } = serde_json::from_str(text)?;
        if order.starts_with(TrailOrder::PREFIX) {
            serde_json::from_str(text).map(Self::Trail)
        } else if order.starts_with(AccountOrder::PREFIX) {
            serde_json::from_str(text).map(Self::Account)
        } else {
            serde_json::from_str(text).map(|order| Self::Policy(Box::new(order)))
        }
    }

    /// The order as a line of JSON.
    ///
    /// # Errors
    /// Never, but for a defect of serde.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        match self {
            Self::Policy(order) => serde_json::to_string(order),
            Self::Trail(order) => serde_json::to_string(order),
            Self::Account(order) => serde_json::to_string(order),
        }
    }

    /// Carries the order out, on the record with the operator as its actor. What it says is for people and scripts.
    ///
    /// # Errors
    /// As what is ordered.
    pub async fn carry_out(self, services: &Services, watch: Watch) -> Result<Value> {
        match self {
            Self::Policy(order) => plugins::carry_out_order(services, *order, watch).await,
            Self::Trail(order) => trail::carry_out_order(services, order).await,
            Self::Account(order) => account_orders::carry_out_order(services, order).await,
        }
    }
}

impl From<PolicyOrder> for Order {
    fn from(order: PolicyOrder) -> Self {
        Self::Policy(Box::new(order))
    }
}

impl From<TrailOrder> for Order {
    fn from(order: TrailOrder) -> Self {
        Self::Trail(order)
    }
}

impl From<AccountOrder> for Order {
    fn from(order: AccountOrder) -> Self {
        Self::Account(order)
    }
}
