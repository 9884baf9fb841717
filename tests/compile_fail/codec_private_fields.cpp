// expect: sluice: this type cannot be encoded: it is neither built in nor a plain struct
// expect: specialise sluice::codec<T>
#include "sluice/core/codec.h"

class Account {
 public:
  explicit Account(long balance) : balance_(balance) {}
  long balance() const { return balance_; }

 private:
  long balance_;
};

const sluice::TypeOps& f() { return sluice::type_ops<Account>(); }
