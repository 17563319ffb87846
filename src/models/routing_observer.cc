#include <algorithm>

#include "base/check.h"
#include "models/model.h"

namespace wideep::models {

bool Batch::is_decode() const {
  return logits_rows.size() == token_ids.size() &&
         std::ranges::all_of(sequences,
                             [](const BatchSequence& sequence) { return sequence.num_rows == 1; });
}

void RoutingObserver::on_slots(int, std::span<const int32_t>) {}

void RoutingObserverList::add(RoutingObserver& observer) {
  CHECK(std::ranges::find(observers_, &observer) == observers_.end());
  observers_.push_back(&observer);
}

void RoutingObserverList::remove(RoutingObserver& observer) {
  CHECK_EQ(std::erase(observers_, &observer), size_t{1});
}

RoutingObserver* RoutingObserverList::target() {
  if (observers_.size() > 1) return this;
  return observers_.empty() ? nullptr : observers_.front();
}

void RoutingObserverList::on_routing(int layer, int first_row, std::span<const int32_t> ids,
                                     int top_k) {
  for (RoutingObserver* observer : observers_) observer->on_routing(layer, first_row, ids, top_k);
}

void RoutingObserverList::on_slots(int layer, std::span<const int32_t> slots) {
  for (RoutingObserver* observer : observers_) observer->on_slots(layer, slots);
}

}  // namespace wideep::models
