#include "sluice/cluster/service_places.h"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace sluice::detail {

class ServicePlaces::Handle : public RunningService {
 public:
  Handle(ServicePlaces& places, EntryPtr entry) : places_(places), entry_(std::move(entry)) {}
  ~Handle() override {
    if (places_.take(entry_->id) != nullptr) stop();
    const std::lock_guard lock(entry_->mutex);
    entry_->is_over = true;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  void tell(std::string_view message) override {
    places_.members_.send(entry_->executor, encode_message(ServiceMessage{entry_->id, 0, 0, std::string(message)}));
  }
  void stop() override { places_.members_.send(entry_->executor, encode_message(StopService{entry_->id})); }

 private:
  ServicePlaces& places_;
  const EntryPtr entry_;
};

ServicePlaces::ServicePlaces(Members& members, Options options) : members_(members), options_(std::move(options)) {}

std::unique_ptr<RunningService> ServicePlaces::start(std::uint64_t id, const Shipped<ServiceMaker>& maker,
                                                     const std::string& preferred_host, ServiceEvents events) {
  if (!members_.wait_for(1, options_.wait_max)) {
    throw Error(Code::no_executors, {.why = "none has come within " + to_string(options_.wait_max)});
  }
  const auto entry = std::make_shared<Entry>();
  entry->id = id;
  entry->events = std::move(events);
  {
    const std::lock_guard lock(mutex_);
    entry->executor = choose(preferred_host);
    entries_[id] = entry;
  }
  auto handle = std::make_unique<Handle>(*this, entry);
  members_.send(entry->executor, encode_message(StartService{id, options_.copies, encoded(maker)}));
  // Lost before it was entered here: then nobody else would say so.
  if (!members_.is_alive(entry->executor) && take(id) != nullptr) end(entry, "its executor is lost");
  return handle;
}

// Under the mutex. 0 where there is none any more: one that is lost since is one that ends at once.
ExecutorId ServicePlaces::choose(const std::string& preferred_host) {
  std::map<ExecutorId, std::size_t> services;
  for (const auto& [other, running] : entries_) ++services[running->executor];
  const std::vector<ExecutorId> ids = members_.ready();
  if (preferred_host.empty()) return fewest(ids, services);
  std::vector<ExecutorId> preferred = ids;
  std::erase_if(preferred, [&](ExecutorId id) {
    return !members_.is_on(id, preferred_host) || services[id] >= members_.cores(id);
  });
  if (!preferred.empty()) return fewest(preferred, services);
  const ExecutorId elsewhere = fewest(ids, services);
  std::fprintf(stderr, "sluice: no executor on %s has a free core: a receiver that prefers it runs on executor %u\n",
               preferred_host.c_str(), elsewhere);
  return elsewhere;
}

ServicePlaces::EntryPtr ServicePlaces::find(std::uint64_t id, ExecutorId executor) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  return found == entries_.end() || found->second->executor != executor ? nullptr : found->second;
}

ServicePlaces::EntryPtr ServicePlaces::take(std::uint64_t id) {
  const std::lock_guard lock(mutex_);
  const auto entry = entries_.extract(id);
  return entry.empty() ? nullptr : entry.mapped();
}

void ServicePlaces::on_message(ExecutorId executor, const ServiceMessage& message) {
  const EntryPtr entry = find(message.id, executor);
  if (entry == nullptr) return;
  const std::lock_guard lock(entry->mutex);
  if (entry->is_over) return;
  std::optional<BlockId> block;
  if (message.block != 0) {
    block = service_block(message.id, message.block);
    entry->last_block = message.block;
    options_.on_block(*block, executor, message.copy);
  }
  entry->events.message(message.text, block);
}

void ServicePlaces::on_ended(ExecutorId executor, const ServiceEnded& message) {
  if (const EntryPtr entry = find(message.id, executor)) {
    take(message.id);
    end(entry, message.why);
  }
}

std::vector<ServicePlaces::EntryPtr> ServicePlaces::on(ExecutorId executor) {
  std::vector<EntryPtr> entries;
  const std::lock_guard lock(mutex_);
  for (const auto& [id, entry] : entries_) {
    if (entry->executor == executor) entries.push_back(entry);
  }
  return entries;
}

bool ServicePlaces::move_away(ExecutorId executor) {
  const std::vector<EntryPtr> entries = on(executor);
  for (const EntryPtr& entry : entries) members_.send(executor, encode_message(StopService{entry->id}));
  return entries.empty();
}

void ServicePlaces::lost(ExecutorId executor) {
  for (const EntryPtr& entry : on(executor)) {
    take(entry->id);
    end(entry, "executor " + std::to_string(executor) + " is lost");
  }
}

void ServicePlaces::end(const EntryPtr& entry, const std::string& why) {
  const std::lock_guard lock(entry->mutex);
  if (std::exchange(entry->is_over, true)) return;
  options_.on_left_over(service_block(entry->id, entry->last_block + 1), service_block(entry->id, ~std::uint32_t{0}));
  entry->events.ended(why);
}

}  // namespace sluice::detail
