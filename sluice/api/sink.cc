#include "sluice/api/sink.h"

#include "sluice/core/stores.h"

namespace sluice {

std::string contract_name(Contract contract) {
  switch (contract) {
    case Contract::at_least_once: return "at least once";
    case Contract::idempotent: return "idempotent";
    case Contract::transactional: return "transactional";
  }
  return "unknown";
}

namespace detail {

void append_records(const RestedRecords& strings, std::vector<std::string>& to) {
  class Append : public Pipe {
   public:
    explicit Append(std::vector<std::string>& to) : to_(to) {}
    void push(const void* records, std::size_t count) override {
      const auto* const texts = static_cast<const std::string*>(records);
      to_.insert(to_.end(), texts, texts + count);
    }
    void finish() override {}

   private:
    std::vector<std::string>& to_;
  } append(to);
  strings.push_all(append);
}

}  // namespace detail
}  // namespace sluice
