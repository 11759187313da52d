//! Turning a sample into rows, and writing them.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{SampleOrganization, SamplePlugin, SampleUser, settings, totp_secret};
use crate::domain::account::{Organization, OrganizationId, User, UserId};
use crate::domain::audit::{ActorRef, Event, EventType, Resource};
use crate::domain::credential::hash_password;
use crate::domain::policy::{FactorKind, Grants, Mode};
use crate::domain::second_factor;
use crate::domain::{Error, Result};
use crate::plugin_host::{Digest, Limits, OnFailure};
use crate::service::Services;
use crate::store::bindings::{BindingRow, VersionRow};
use crate::store::factors::RecoverySetRow;
use crate::store::plugins::PluginRow;
use crate::store::{Transaction, accounts, audit, bindings, configurations, factors, plugins};

/// The rows of a sample, ready to be written.
#[derive(Clone)]
pub(super) struct Load {
    at: Timestamp,
    organizations: Vec<Organization>,
    users: Vec<LoadUser>,
    plugins: Vec<(PluginRow, Arc<[u8]>)>,
    /// Bindings with their configurations.
    bindings: Vec<(BindingRow, String)>,
    /// Entries with their ids, in the order of the events.
    events: Vec<(Uuid, Event)>,
}

#[derive(Clone)]
struct LoadUser {
    user: User,
    password_hash: String,
    totp: Option<(Uuid, Vec<u8>)>,
    recovery: Option<(RecoverySetRow, Vec<[u8; 32]>)>,
}

impl Load {
    pub(super) fn new(at: Timestamp) -> Self {
        Self {
            at,
            organizations: Vec::new(),
            users: Vec::new(),
            plugins: Vec::new(),
            bindings: Vec::new(),
            events: Vec::new(),
        }
    }

    fn record(&mut self, services: &Services, event: Event) {
        self.events
            .push((services.entropy.uuid(self.at), event.with("sample", true)));
    }

    pub(super) fn organization(&mut self, services: &Services, from: &SampleOrganization) -> Result<()> {
        let organization = Organization {
            id: OrganizationId(from.id),
            slug: from.slug.clone(),
            name: from.name.clone(),
            settings: settings(from)?,
            revision: 0,
        };
        let resource = Resource::other("ORGANIZATION", organization.id, Some(organization.slug.clone()));
        let event = Event::new(
            EventType::OrganizationCreate,
            Some(organization.id),
            ActorRef::operator(),
        );
        self.record(services, event.on(resource));
        self.organizations.push(organization);
        Ok(())
    }

    pub(super) async fn user(
        &mut self,
        services: &Services,
        of: &SampleOrganization,
        from: &SampleUser,
    ) -> Result<()> {
        let at = self.at;
        let (id, organization) = (UserId(from.id), OrganizationId(of.id));
        let email = from.email.trim().to_owned();
        let user = User {
            active: from.active,
            mfa_enabled: from.totp_secret.is_some(),
            password_changed_at: Some(at),
            ..User::new(id, organization, email, from.name.clone(), from.role, at)
        };
        let (password, salt) = (from.password.clone(), services.entropy.bytes());
        let password_hash = services
            .hashing
            .run(None, move || hash_password(&password, salt))
            .await?;
        let totp = from
            .totp_secret
            .as_deref()
            .map(totp_secret)
            .transpose()?
            .map(|secret| {
                let nonce = services.entropy.bytes();
                let sealed = services
                    .keys
                    .seal(user.id, FactorKind::Totp, secret.as_bytes(), nonce);
                (services.entropy.uuid(at), sealed)
            });
        let recovery = match from.recovery_codes.as_slice() {
            [] => None,
            codes => {
                let set = RecoverySetRow {
                    id: services.entropy.uuid(at),
                    salt: services.entropy.bytes(),
                };
                let (codes, salt, pepper) = (codes.to_vec(), set.salt, *services.keys.pepper());
                let hash = move || {
                    codes
                        .iter()
                        .map(|code| second_factor::hash_recovery_code(code, &salt, &pepper))
                        .collect()
                };
                Some((set, services.hashing.run(None, hash).await?))
            }
        };
        let event = Event::new(
            EventType::UserCreate,
            Some(user.organization_id),
            ActorRef::operator(),
        );
        self.record(
            services,
            event.on(Resource::user(&user)).with("role", json!(user.role)),
        );
        if user.mfa_enabled {
            let event = Event::new(
                EventType::UserMfaEnabled,
                Some(user.organization_id),
                ActorRef::operator(),
            );
            self.record(services, event.on(Resource::user(&user)));
        }
        self.users.push(LoadUser {
            user,
            password_hash,
            totp,
            recovery,
        });
        Ok(())
    }

    pub(super) async fn plugin(
        &mut self,
        services: &Services,
        of: &SampleOrganization,
        from: &SamplePlugin,
        position: i64,
        module: Vec<u8>,
    ) -> Result<()> {
        let (at, organization) = (self.at, Some(OrganizationId(of.id)));
        let refused = |e: &dyn std::fmt::Display| Error::PluginRefused(format!("{}: {e}", from.plugin));
        let (host, module): (_, Arc<[u8]>) = (services.plugin_host.clone(), module.into());
        let bytes = Arc::clone(&module);
        let prepared = tokio::task::spawn_blocking(move || host.prepare(&bytes))
            .await
            .map_err(|e| Error::Internal(format!("the compilation ended early: {e}")))?
            .map_err(|e| refused(&e))?;
        let manifest = services
            .plugin_host
            .describe(&prepared)
            .await
            .map_err(|e| refused(&e))?;
        let config = serde_json::to_string(&from.config).map_err(|e| refused(&e))?;
        services
            .plugin_host
            .check_config(&prepared, &manifest, &config)
            .await
            .map_err(|e| refused(&e))?;
        let (host, module_ready) = (services.plugin_host.clone(), Arc::clone(&prepared));
        tokio::task::spawn_blocking(move || host.keep_artefact(&module_ready))
            .await
            .map_err(|e| Error::Internal(format!("keeping the machine code ended early: {e}")))?;

        let digest = prepared.digest().0;
        let resource = Resource::other("PLUGIN", hex::encode(digest), Some(manifest.name.clone()));
        if !self.plugins.iter().any(|(row, _)| row.digest == digest) {
            // Recorded for the node: a second organisation that binds the plugin finds it installed.
            let event = Event::new(EventType::PolicyPluginInstall, None, ActorRef::operator());
            let event = event
                .on(resource.clone())
                .with("version", manifest.version.as_str());
            self.record(services, event);
            let row = PluginRow {
                digest,
                organization_id: None,
                manifest: manifest.clone(),
                signature: None,
                signed_by: None,
                size_bytes: module.len() as u64,
                installed_at: at,
                disabled_at: None,
            };
            self.plugins.push((row, module));
        }
        let text = |value: &Value| value.to_string();
        let binding = BindingRow {
            id: services.entropy.uuid(at),
            organization_id: organization,
            version: VersionRow {
                plugin_digest: digest,
                config_digest: Digest::of(config.as_bytes()).0,
                hooks: manifest.hooks.clone(),
                answered: false,
            },
            previous: None,
            position,
            mode: Mode::default(),
            on_failure: text(&json!(OnFailure::default())),
            grants: Grants::of(from.grants.iter().cloned()),
            limits: text(&json!(Limits::default())),
            disabled_at: None,
            created_at: at,
            updated_at: at,
            approval_demanded_at: None,
            revision: 0,
        };
        let event = Event::new(EventType::PolicyPluginBind, organization, ActorRef::operator())
            .on(resource)
            .with("binding", binding.id.to_string())
            .with("version", manifest.version.as_str())
            .with("configDigest", hex::encode(binding.version.config_digest));
        self.record(services, event);
        self.bindings.push((binding, config));
        Ok(())
    }

    pub(super) fn write(&self, tx: &Transaction<'_>) -> Result<()> {
        let at = self.at;
        for organization in &self.organizations {
            accounts::insert_organization(tx, organization, at)?;
        }
        for LoadUser {
            user,
            password_hash,
            totp,
            recovery,
        } in &self.users
        {
            accounts::insert_user(tx, user, Some(password_hash))?;
            if let Some((id, sealed)) = totp {
                factors::insert_totp(tx, user.id, *id, sealed, 0, at)?;
            }
            if let Some((set, hashes)) = recovery {
                factors::insert_recovery_set(tx, user.id, set, hashes, at)?;
            }
        }
        for (plugin, module) in &self.plugins {
            plugins::insert_plugin(tx, plugin, module)?;
        }
        for (binding, config) in &self.bindings {
            configurations::insert_configuration(tx, &binding.version.config_digest, config, at)?;
            bindings::insert_binding(tx, binding)?;
        }
        for (id, event) in &self.events {
            audit::append_entry(tx, at, *id, event)?;
        }
        Ok(())
    }
}
