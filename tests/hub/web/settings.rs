//! USTAWIENIA » DANE DO FAKTURY.

use super::{Visitor, csrf, location, portal, without_profiles};
use crate::harness::Engine;
use crate::stories::stage::Stage;

fn form<'a>(token: &'a str, name: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![
        ("csrf", token),
        ("kind", "individual"),
        ("name", name),
        ("street", "Prosta 1"),
        ("postcode", "00-950"),
        ("city", "Warszawa"),
        ("country", "PL"),
        ("email", "jan@client.example"),
    ];
    fields.extend_from_slice(more);
    fields
}

/// Name, default, version of each set, the default first.
async fn sets(stage: &Stage) -> Vec<(String, bool, i64)> {
    let mut tx = stage.hub.tx().await;
    let all = tx.profiles(&stage.payer.merchant_id, &stage.payer.id).await.expect("profiles");
    all.into_iter().map(|p| (p.body.name, p.is_default, p.version)).collect()
}

fn set(name: &str, is_default: bool, version: i64) -> (String, bool, i64) {
    (name.to_owned(), is_default, version)
}

// R-5W-12, R-OKI-09, R-OKI-10, R-OKI-12
#[tokio::test]
async fn invoice_data_are_added_changed_chosen_and_deleted() {
    let stage = Stage::set(Engine::Sqlite).await;
    let visitor = Visitor(&stage.hub);
    let paid = stage.pay("1/2026", "autopay", "pay").await;
    without_profiles(&stage.hub, &stage.payer).await;
    let list = format!("{}/profiles", portal(&stage.payer));
    let new = format!("{list}/new");
    let page = visitor.get(&list).await.expect(200).text();
    assert!(page.contains("USTAWIENIA »") && page.contains("DANE DO FAKTURY") && page.contains(&new), "{page}");
    let token = csrf(&visitor.get(&new).await.expect(200));

    visitor.post(&new, &form(&token, "", &[])).await.expect(422);
    assert_eq!(location(&visitor.post(&new, &form(&token, "Jan", &[])).await), list);
    assert_eq!(sets(&stage).await, [set("Jan", true, 1)], "the first is the default");
    visitor.post(&new, &form(&token, "Jan", &[])).await.expect(303);
    visitor.post(&new, &form(&token, "Anna", &[])).await.expect(303);
    assert_eq!(sets(&stage).await, [set("Jan", true, 1), set("Anna", false, 1)], "the same data are saved once");

    let page = visitor.get(&list).await.expect(200).text();
    let choose =
        page.split("/default\"").next().and_then(|p| p.rsplit("action=\"").next()).expect("a button").to_owned();
    visitor.post(&format!("{choose}/default"), &[]).await.expect(403);
    visitor.post(&format!("{choose}/default"), &[("csrf", &token)]).await.expect(303);
    assert_eq!(sets(&stage).await, [set("Anna", true, 1), set("Jan", false, 1)]);
    let text = visitor.get(&choose).await.expect(200).text();
    assert!(text.contains("value=\"Anna\""), "{text}");
    visitor.post(&choose, &form(&token, "Anna Nowa", &[])).await.expect(303);
    assert_eq!(sets(&stage).await, [set("Anna Nowa", true, 2), set("Jan", false, 1)]);
    visitor.post(&format!("{choose}/delete"), &[("csrf", &token)]).await.expect(303);
    assert_eq!(sets(&stage).await, [set("Jan", true, 1)], "another one takes over");
    visitor.get(&choose).await.expect(404);

    let buyer = stage.payment(&paid).await.buyer.expect("a snapshot");
    assert_eq!(buyer.name, "Firma Klienta", "the payment keeps its snapshot");
}
