// The generated policy.c asks for an object file that holds the contract. The appliance puts the
// contract in itself when it takes a module, so an empty function will do and no binary is shipped.
void __component_type_object_force_link_policy(void) {}
